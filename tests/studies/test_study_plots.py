"""Plots of a study, of trials that nobody grew."""

import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from lineage.studies.plots import draw, trials_for_importances
from lineage.studies.pruned_marks import mark

_SPACE: dict[str, BaseDistribution] = {
    "student.temperature": FloatDistribution(1, 8),
    "training.optimizer": CategoricalDistribution(["sgd", "adamw"]),
}


def _study(num_complete: int) -> optuna.Study:
    """Return a study of two keys with a pruned trial at its end."""
    study = optuna.create_study(direction="maximize")
    for number in range(num_complete + 1):
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if number < num_complete else TrialState.PRUNED,
                params={
                    "student.temperature": 1 + number / 2,
                    "training.optimizer": ("sgd", "adamw")[number % 2],
                },
                distributions=_SPACE,
                value=0.5 + number / 100,
            )
        )
    return study


def test_too_few_trials_leave_out_importances_and_contour(tmp_path: Path) -> None:
    study = _study(7)
    files, remarks = draw(study, ["accuracy"], tmp_path)
    assert {file.stem for file in files if file.suffix == ".png"} == {"history", "slice"}
    assert remarks[0] == (
        "The importances of keys and a contour need at least 8 complete trials for 2 keys, but there are 7,"
        " so they are left out."
    )
    assert trials_for_importances(study) == []
    assert trials_for_importances(_study(8))


def test_enough_trials_are_drawn_whole_and_the_style_of_the_process_stays(tmp_path: Path) -> None:
    before = plt.rcParams["axes.facecolor"]
    files, remarks = draw(_study(8), ["accuracy"], tmp_path)
    drawn = {file.stem for file in files if file.suffix == ".png"}
    assert drawn == {"history", "slice", "contour", "importances"}
    assert not any("at least" in remark for remark in remarks)
    assert plt.rcParams["axes.facecolor"] == before
    if importlib.util.find_spec("plotly") is not None:
        assert "pruned, last value" in (tmp_path / "study.html").read_text()


@pytest.mark.parametrize(
    ("title", "place"), [("Trial", 2), ("student.temperature", 2.0), ("training.optimizer", 0)]
)
def test_pruned_trial_is_marked_by_a_cross(title: str, place: float) -> None:
    pruned = _study(2).get_trials(states=(TrialState.PRUNED,))
    figure, axes = plt.subplots()
    axes.set_xlabel(title)
    mark([axes], pruned)
    (cross,) = axes.collections
    assert cross.get_offsets().tolist() == [[place, 0.52]]
    assert "pruned" in figure.texts[0].get_text()
    plt.close(figure)
