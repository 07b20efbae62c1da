"""What goes on from the evidence, on digits: a seed grown again, the study, the audits."""

import json
from dataclasses import replace

import pytest
from families import LONGER, Grower, Piece, grow_all
from further import again, audit, compare_again, study
from records import small_record
from test_families import SMALL

from lineage.registry.packing.record import read_record


def test_grown_again_is_the_same_weights_or_what_another_seed_would_be() -> None:
    held = [
        replace(version, key=f"k{version.version}", weights_sha256="w")
        for version in small_record(seeds=3, generations=1).family
    ]
    sentences, is_right = compare_again(held, held)
    assert is_right
    assert all(sentence.endswith("the same weights") for sentence in sentences)
    accuracies = [version.metrics["test_accuracy"] for version in held]
    for moved, fits in ((0.001, True), (max(accuracies) + 0.5, False)):
        metrics = {"test_accuracy": accuracies[0] + moved}
        other = replace(held[0], metrics=metrics, weights_sha256="x")
        assert compare_again(held, [other])[1] == fits


@pytest.mark.slow
def test_kept_families_are_grown_again_audited_and_studied(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("evidence")
    grower = Grower(SMALL, folder / "store", folder / "kept")
    assert grow_all(grower, [[Piece(arm, 0) for arm in LONGER]], processes=2)
    capsys.readouterr()
    assert again(Grower(SMALL, folder / "again", folder / "again-kept"), grower.kept, seed=0)
    assert capsys.readouterr().out.count("the same weights") == 6

    audit(grower, "strict", shadows=4)
    family = read_record(grower.kept / "evidence-strict.json").family
    assert all("audit_lira_auc" in version.metrics for version in family)

    study(grower)
    result = json.loads((grower.kept / "study.json").read_text(encoding="utf-8"))
    values = {
        (t["values"]["patriarch.strictness"], t["values"]["student.temperature"]) for t in result["trials"]
    }
    assert len(values) == 12
