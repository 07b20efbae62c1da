"""A store that was written before modules and recipe keys were renamed works as if written today."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

import lineage
from lineage.growing.succession import Lineage
from lineage.recipe import Recipe
from lineage.registry.care.doctor import examine

pytestmark = pytest.mark.usefixtures("former_store")

TINY = ("network.width=4", "training.epochs=2", "data.train_samples=400", "training.warmup_epochs=0")


def _only(lineages: list[Lineage]) -> Lineage:
    (one,) = lineages
    return one


@pytest.mark.parametrize(("name", "size"), [("elders", 6), ("branch", 1), ("trials", 3)])
def test_family_is_read_whole(name: str, size: int) -> None:
    assert len(lineage.tree(name)) == size


@pytest.mark.parametrize("name", ["elders", "branch", "trials"])
def test_family_is_healthy(name: str) -> None:
    assert examine(name, has_local_state=lambda _key: False).findings == ()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6])
def test_network_measures_as_it_was_recorded(number: int) -> None:
    evaluation = lineage.evaluate(f"models:/elders/{number}")
    assert evaluation.metrics["test_accuracy"] == evaluation.recorded["test_accuracy"]


def test_ensemble_measures_as_it_was_recorded() -> None:
    evaluation = lineage.evaluate("models:/elders/5")
    assert evaluation.metrics["test_accuracy"] == evaluation.recorded["test_accuracy"]


def test_stored_recipe_is_read_by_its_first_names() -> None:
    student = Recipe.from_json(lineage.load("models:/elders/3").recipe).student
    assert (student.soft_targets, student.soft_target_classes) == ("stored", 4)


def test_recipe_is_found_again_under_its_keys() -> None:
    again = _only(lineage.grow("digits", name="elders", generations=1, overrides=TINY))
    assert again.num_trained == 0
    assert [version.version for version in again.versions] == [1, 2]


def test_soft_targets_are_found_again() -> None:
    stored = ["student.soft_targets=stored", "student.soft_target_classes=4"]
    again = _only(lineage.grow(teacher="models:/elders/1", overrides=stored))
    assert (again.num_trained, again.versions[0].version) == (0, 3)
    tags = MlflowClient().get_model_version("elders", "1").tags
    sibling = _only(lineage.grow(teacher="models:/elders/1", overrides=[*stored, "succession.seed=9"]))
    assert sibling.num_trained == 1
    assert MlflowClient().get_model_version("elders", "1").tags == tags  # none were computed again


def test_branch_grows_from_it() -> None:
    grown = _only(lineage.grow(teacher="models:/branch/1", seeds=[11]))
    assert (grown.num_trained, grown.versions[0].generation) == (1, 3)
    assert grown.versions[0].teacher == "branch/1"


def test_model_is_served_by_mlflow() -> None:
    pixels = np.zeros((2, 1, 8, 8), np.float32)
    predicted = np.asarray(mlflow.pyfunc.load_model("models:/elders/2").predict(pixels))
    assert predicted.shape == (2, 10)


def test_study_goes_on(former_store: Path) -> None:
    result = lineage.study(
        "digits",
        name="trials",
        space=["temperature=1,2"],
        overrides=[*TINY, "study.sampler=grid", "succession.generations=1"],
    )
    assert len(result.trials) == 2
    assert len(lineage.tree("trials")) == 3
    assert (former_store / "studies.db").is_file()
