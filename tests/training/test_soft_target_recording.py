from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from lineage.data.batches import Augmentation, training_batches
from lineage.data.datasets import load_dataset
from lineage.data.images import DataSet
from lineage.errors import UsageError
from lineage.models.networks import build_network
from lineage.models.stages import stage_names
from lineage.training.devices import make_accelerator
from lineage.training.measurement import Subset
from lineage.training.soft_target_folder import SoftTargetFolder
from lineage.training.soft_target_format import SoftTargetFormat
from lineage.training.soft_target_recording import record_soft_targets
from lineage.training.soft_targets import StoredSoftTargets
from lineage.training.teachers import LiveTeacher, StoredTeacher

AUGMENTATION = Augmentation(1, "zeros", True, mixup=1.0, cutmix=1.0)  # a view's mixing is part of the view
VIEWS = 3
ROWS = torch.arange(5, 105)  # the last batch is smaller than the others


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def teacher() -> LiveTeacher:
    torch.manual_seed(0)
    network = build_network("resnet8", 10, (1, 8, 8), {"width": 4})
    return LiveTeacher(make_accelerator(), network, (1, 8, 8))


Record = Callable[..., SoftTargetFolder]


@pytest.fixture
def record(digits: DataSet, teacher: LiveTeacher, tmp_path: Path) -> Record:
    """Records the teacher's soft targets for some images of digits, in a folder of some name."""

    def run(
        name: str = "signals",
        form: SoftTargetFormat | None = None,
        attach: Callable[[Engine], None] = lambda _: None,
        views: int = VIEWS,
        by: LiveTeacher = teacher,
    ) -> SoftTargetFolder:
        folder = SoftTargetFolder(tmp_path / name, form or SoftTargetFormat(10), views, len(ROWS))
        others = {
            "validation": Subset(digits.train, torch.tensor([0, 3, 200]), digits.spec, 32),
            "test": Subset(digits.test, torch.arange(len(digits.test)), digits.spec, 32),
        }
        train = Subset(digits.train, ROWS, digits.spec, 32)
        record_soft_targets(by, train, others, AUGMENTATION, 7, folder, attach)  # type: ignore[arg-type]
        return folder

    return run


def test_stored_soft_targets_are_what_the_live_teacher_says_of_every_view(
    record: Record, digits: DataSet, teacher: LiveTeacher
) -> None:
    soft_targets = StoredSoftTargets(record().folder)
    batches = training_batches(
        digits.train,
        digits.spec,
        ROWS,
        25,
        AUGMENTATION,
        7,
        1,
        num_views=VIEWS,
        soft_targets=soft_targets,
    )
    seen: list[Tensor] = []
    for epoch in (1, 2, 3, 4):
        batches.select_epoch(epoch)
        for images, _, _, *stored in batches.loader:
            live, kept = teacher.logits(images), soft_targets.format.decode(stored)
            seen.append(live)
            # 2⁻¹¹ of a logit's distance from the largest is lost to float16; batches of another size differ
            # in the last bits of float32
            live -= live.amax(1, keepdim=True)
            assert ((live - kept).abs() <= live.abs() * 2**-11 + 1e-5).all()
    assert len(seen) == 16
    assert not torch.equal(seen[0], seen[4])


def test_stored_explanations_are_what_the_live_teacher_shows_up_to_a_factor(
    record: Record, digits: DataSet
) -> None:
    torch.manual_seed(0)
    network = build_network("resnet8", 10, (1, 8, 8), {"width": 4})
    (stage,) = stage_names(network, (1, 8, 8))[-1:]
    explaining = LiveTeacher(make_accelerator(), network, (1, 8, 8), [stage], {0: network.classifier})
    assert explaining.explanation_size((1, 8, 8)) == (2, 2)
    form = SoftTargetFormat(10, explanation=(2, 2))

    soft_targets = StoredSoftTargets(record("explained", form, by=explaining).folder)

    assert soft_targets.format == form
    batches = training_batches(
        digits.train, digits.spec, ROWS, 25, AUGMENTATION, 7, 1, num_views=VIEWS, soft_targets=soft_targets
    )
    batches.select_epoch(2)
    for images, _, _, *stored in batches.loader:
        logits, (kept,) = StoredTeacher(soft_targets).teach(images, stored)
        live_logits, (live,) = explaining.teach(images)
        torch.testing.assert_close(logits.softmax(1), live_logits.softmax(1), rtol=1e-2, atol=1e-4)
        assert live.amax() > 0
        largest = live.amax((2, 3), keepdim=True)
        torch.testing.assert_close(kept, live / torch.where(largest > 0, largest, 1), rtol=1e-3, atol=1e-4)


def test_teachers_classes_of_the_other_parts_are_kept(
    record: Record, digits: DataSet, teacher: LiveTeacher
) -> None:
    soft_targets = StoredSoftTargets(record().folder)
    test = Subset(digits.test, torch.arange(len(digits.test)), digits.spec, 64)
    assert torch.equal(soft_targets.predictions("test"), teacher.predictions("test", test))
    assert len(soft_targets.predictions("validation")) == 3


def test_recording_that_was_cut_short_goes_on_to_the_same_bytes(record: Record) -> None:
    started: list[int] = []

    def cut(engine: Engine) -> None:
        @engine.on(Events.ITERATION_STARTED)
        def _fail(engine: Engine) -> None:
            if engine.state.epoch == 2 and engine.state.iteration % 4 == 3:
                raise KeyboardInterrupt

    def watch(engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: started.append(engine.state.epoch))

    with pytest.raises(KeyboardInterrupt):
        record("cut", attach=cut)
    cut_short = record("cut", attach=watch)
    assert started == [2, 3]
    whole = record("whole")
    for name in ("logits.npy", "validation.npy", "test.npy", "signals.json"):
        assert (cut_short.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_complete_recording_is_left_alone(record: Record) -> None:
    folder = record()
    before = (folder.folder / "logits.npy").stat().st_mtime_ns

    def refuse(_: Engine) -> None:
        raise AssertionError

    record(attach=refuse)
    assert (folder.folder / "logits.npy").stat().st_mtime_ns == before


def test_largest_classes_are_those_of_the_live_teacher(
    record: Record, digits: DataSet, teacher: LiveTeacher
) -> None:
    form = SoftTargetFormat(10, 3, 2.0)
    soft_targets = StoredSoftTargets(record(form=form).folder)
    batches = training_batches(
        digits.train, digits.spec, ROWS, 25, AUGMENTATION, 7, 1, soft_targets=soft_targets
    )
    batches.select_epoch(2)
    images, _, _, *stored = next(iter(batches.loader))
    p, q = ((x / 2).softmax(1) for x in (teacher.logits(images), form.decode(stored)))
    assert torch.equal(p.topk(3).indices, stored[1].long())
    torch.testing.assert_close(q.topk(3).values, p.topk(3).values, rtol=2e-3, atol=1e-4)


def test_disk_without_room_is_told_before(
    record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(
        UsageError, match=r"must have room for the teacher's soft targets, 0\.0 GB in .* set LINEAGE_HOME"
    ):
        record()
    assert not list(tmp_path.rglob("*.npy"))


def test_disk_that_has_filled_up_is_told_before_a_recording_goes_on(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def cut(engine: Engine) -> None:
        @engine.on(Events.EPOCH_COMPLETED)
        def _fail(engine: Engine) -> None:
            raise KeyboardInterrupt

    def watch(engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: started.append(engine.state.epoch))

    views = 12  # of half a block each
    monkeypatch.delattr("os.posix_fallocate")  # as on macOS: the arrays are sparse
    with pytest.raises(KeyboardInterrupt):
        record(attach=cut, views=views)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
        with pytest.raises(UsageError, match="must have room for the teacher's soft targets"):
            record(attach=watch, views=views)
    assert started == []
    record(attach=watch, views=views)
    assert started == list(range(2, views + 1))


def test_room_on_the_disk_is_allocated_before_the_first_view(record: Record, tmp_path: Path) -> None:
    def stop(engine: Engine) -> None:
        @engine.on(Events.STARTED)
        def _stop(_: Engine) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(attach=stop, views=12)
    file = (tmp_path / "signals" / "logits.npy").stat()
    assert file.st_blocks * 512 >= file.st_size
