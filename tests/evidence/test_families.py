import pytest
from families import ARMS, LONGER, SEEDS, Grower, Piece, grow_all, is_kept, merged, stages

from lineage.registry.packing.record import FamilyRecord, read_record, record_text
from lineage.registry.packing.recording import record_family

SMALL = [
    "data.name=digits",
    "data.image_size=8",
    "data.train_samples=100",
    "data.validation=0.1",
    "network.width=4",
    "training.epochs=0",
    "training.batch_size=50",
    "training.warmup_epochs=0",
    "training.precision=fp32",
]


def test_any_stop_leaves_whole_pairs() -> None:
    """Before a seed begins, the seed before it has every arm; what two arms alone have comes last."""
    order = stages()
    assert len(order) == 2 * len(SEEDS)
    for seed, arms in zip(SEEDS, order[: len(SEEDS)], strict=True):
        assert [(piece.arm, piece.seed, piece.students) for piece in arms] == [(arm, seed, 2) for arm in ARMS]
    for seed, extras in zip(SEEDS, order[len(SEEDS) :], strict=True):
        assert {piece.seed for piece in extras} == {seed}
        families = [(piece.family, piece.generations) for piece in extras]
        assert families == [(f"evidence-{arm}", range(4)) for arm in LONGER] + [
            (f"evidence-{arm}-t4", range(1, 3)) for arm in LONGER
        ]


@pytest.fixture
def grower(tmp_path_factory: pytest.TempPathFactory) -> Grower:
    folder = tmp_path_factory.mktemp("evidence")
    return Grower(SMALL, folder / "store", folder / "kept")


@pytest.mark.slow
def test_pieces_are_grown_once_and_kept_though_the_store_is_lost(
    grower: Grower, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = [Piece("strict", 0, students=2), Piece("strict", 0, students=1, temperature=4)]
    assert grow_all(grower, [[Piece("strict", 0, students=1)], longer], processes=2)
    assert all(is_kept(piece, grower.kept) for piece in longer)
    assert not is_kept(Piece("strict", 0, students=3), grower.kept)
    kept = read_record(grower.kept / "evidence-strict.json")
    assert [(version.generation, version.teacher) for version in kept.family] == [
        (0, None),
        (1, "evidence-strict/1"),
        (2, "evidence-strict/2"),
    ]
    (student,) = read_record(grower.kept / "evidence-strict-t4.json").family
    assert (student.generation, student.teacher) == (1, "evidence-strict/1")

    capsys.readouterr()
    another = Grower(SMALL, grower.store.with_name("another"), grower.kept)
    another_seed = [[Piece("strict", 1, students=1)], [Piece("strict", 1, students=1, temperature=4)]]
    order = [longer, *another_seed]
    assert grow_all(another, order, processes=2)
    assert capsys.readouterr().out.count("kept already") == 2
    both = read_record(grower.kept / "evidence-strict.json")
    assert [(version.id, version.seed, version.teacher) for version in both.family][3:] == [
        ("evidence-strict/4", 1, None),
        ("evidence-strict/5", 1, "evidence-strict/4"),
    ]
    warm = read_record(grower.kept / "evidence-strict-t4.json").family
    assert [(version.id, version.seed, version.teacher) for version in warm] == [
        ("evidence-strict-t4/1", 0, "evidence-strict/1"),
        ("evidence-strict-t4/2", 1, "evidence-strict/4"),
    ]


@pytest.mark.usefixtures("home")
def test_family_that_was_kept_gains_what_its_store_has_grown_since() -> None:
    import lineage

    grow = {"generations": 1, "overrides": SMALL}
    lineage.grow("evidence-strict", **grow)  # type: ignore[arg-type]
    kept = record_family("evidence-strict")
    lineage.grow("evidence-strict", seeds=[1], **grow)  # type: ignore[arg-type]
    grown = record_family("evidence-strict")
    assert merged(kept, grown) == grown
    alone = FamilyRecord(grown.name, grown.versions[2:], grown.data)
    assert [version.id for version in merged(kept, alone).family] == [
        f"evidence-strict/{i}" for i in range(1, 5)
    ]
    assert record_text(merged(grown, kept)) == record_text(grown)
