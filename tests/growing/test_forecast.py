"""``grow --dry-run``: what would be trained, against what is then trained."""

from pathlib import Path

import pytest

import lineage
from lineage.display.forecast import forecast_lines
from lineage.errors import UsageError


@pytest.mark.usefixtures("home")
def test_forecast_is_what_grow_then_does(tiny_settings: tuple[str, ...]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///absent.db")
        before = lineage.forecast("digits", generations=1, seeds=[0, 1], overrides=tiny_settings)
    assert not Path("absent.db").exists()
    assert (len(before.to_train), before.seconds) == (4, None)
    (grown,) = lineage.grow("digits", generations=1, overrides=tiny_settings)

    after = lineage.forecast("digits", generations=2, seeds=[0, 1], overrides=tiny_settings)
    assert [one.key for one in before.generations[:2]] == [version.key for version in grown.versions]
    assert [one.version for one in after.generations[:2]] == list(lineage.tree("digits"))
    assert [(one.seed, one.generation) for one in after.to_train] == [(0, 2), (1, 0), (1, 1), (1, 2)]
    patriarch, student = (version.metrics["seconds"] for version in grown.versions)
    assert [one.seconds for one in after.to_train] == [student, patriarch, student, student]
    assert after.seconds == pytest.approx(patriarch + 3 * student)
    network = lineage.load(grown.versions[0].uri).network
    assert list(after.networks.values()) == [sum(parameter.numel() for parameter in network.parameters())]
    assert f"{after.num_train:,} to train on" in forecast_lines(after)[0]

    branch = lineage.forecast(teacher="models:/digits/1", seeds=[7])
    assert [(one.generation, one.version) for one in branch.generations] == [(1, None)]
    with pytest.raises(UsageError, match="got neither"):
        lineage.forecast()
