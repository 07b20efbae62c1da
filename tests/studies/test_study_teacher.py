"""Studies of the students of one registered teacher."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import lineage
from lineage.display.study_progress import SilentStudyReporter
from lineage.errors import IntegrityError, RecipeError
from lineage.recipe import load_recipe, override_texts, with_space
from lineage.studies.study import work
from lineage.studies.worker_processes import Job

SPACE = ["temperature=1,4"]
SMALL = ("student.network={name='resnet8', width=3}", "student.soft_targets=stored", "study.sampler=grid")


@pytest.fixture(scope="module")
def settings(module_home: Path, tiny_settings: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides with which trials train small students; the family ``digits`` has two possible teachers."""
    lineage.grow("digits", generations=1, overrides=tiny_settings)
    return (*tiny_settings, *SMALL)


def study(settings: tuple[str, ...], **options: Any) -> lineage.StudyResult:
    given: dict[str, Any] = {
        "name": "s",
        "teacher": "models:/digits/1",
        "space": SPACE,
        "overrides": settings,
    }
    return lineage.study("digits", **given | options)


@pytest.fixture(scope="module")
def downloads() -> Iterator[list[str]]:
    """Models and files that were downloaded, or read in place, since the test began."""
    found: list[str] = []
    download = mlflow.artifacts.download_artifacts

    def counted(*arguments: Any, **options: Any) -> str:
        found.append(str(arguments[0] if arguments else options["artifact_uri"]))
        return str(download(*arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.artifacts, "download_artifacts", counted)
        yield found


@pytest.fixture(scope="module")
def result(settings: tuple[str, ...], downloads: list[str]) -> lineage.StudyResult:
    return study(settings)


def test_trials_train_students_of_the_teacher_and_no_patriarch(result: lineage.StudyResult) -> None:
    assert (result.count("COMPLETE"), result.num_trained, result.num_saved) == (2, 2, 0)
    family = lineage.tree("s")
    assert {(version.generation, version.teacher) for version in family} == {(1, "digits/1")}
    assert [version.network for version in family] == 2 * ["resnet8 (width=3)"]
    assert MlflowClient().get_run(result.run_id).data.tags["lineage.study.teacher"] == "digits/1"


def test_teacher_is_read_once_and_its_soft_targets_are_shared(
    result: lineage.StudyResult, downloads: list[str]
) -> None:
    teacher = lineage.tree("digits").versions[0]
    computing = mlflow.search_runs(
        experiment_names=["digits"], filter_string="tags.`lineage.kind` = 'signals'"
    )
    assert len(computing) == 1
    assert downloads.count(f"models:/{teacher.model_id}") == 2  # for the study, and to compute soft targets


def test_live_teacher_is_read_once_for_all_trials(
    result: lineage.StudyResult, settings: tuple[str, ...], downloads: list[str]
) -> None:
    version = lineage.ensemble(["models:/digits/1", "models:/digits/2"], name="digits").version
    assert version is not None
    downloads.clear()
    live = study(
        settings,
        name="live",
        teacher="models:/digits/3",
        overrides=[*settings, "student.soft_targets=live", "training.epochs=1"],
        space=["student.network.width=3,5"],
    )
    assert live.count("COMPLETE") == 2
    assert downloads.count(f"models:/{version.model_id}") == 1
    students = lineage.tree("live")
    assert {(student.generation, student.teacher) for student in students} == {(2, "digits/3")}
    assert {student.network for student in students} == {"resnet8 (width=3)", "resnet8 (width=5)"}


def test_study_goes_on_with_its_teacher_alone(result: lineage.StudyResult, settings: tuple[str, ...]) -> None:
    assert study(settings) == result
    assert lineage.study(name="s") == result  # the recipe and the teacher of the last session
    with pytest.raises(
        IntegrityError, match=r"the teacher was models:/digits/1 and is models:/digits/2\. Gi"
    ):
        study(settings, teacher="models:/digits/2")
    with pytest.raises(IntegrityError, match="the teacher was models:/digits/1 and is none"):
        study(settings, teacher=None)


def test_worker_process_takes_the_teacher_from_its_job(
    result: lineage.StudyResult, settings: tuple[str, ...]
) -> None:
    changes = ["succession.generations=1", *override_texts(settings), "model.name=s"]
    recipe = with_space(load_recipe("digits", changes), SPACE).to_json()
    work(Job(recipe, "sqlite:///studies.db", 1, "models:/digits/1"), SilentStudyReporter())
    with pytest.raises(IntegrityError, match="the teacher was models:/digits/1 and is models:/digits/2"):
        work(Job(recipe, "sqlite:///studies.db", 1, "models:/digits/2"), SilentStudyReporter())


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        (
            "strictness=0.5,1",
            "patriarch.strictness must not vary in a study with a teacher, since it is the pat",
        ),
        (
            "network.width=3,4",
            "not trained; let student.network.width vary instead, or leave it out of the sp",
        ),
    ],
)
def test_setting_of_the_patriarch_alone_does_not_vary(
    axis: str, sentence: str, settings: tuple[str, ...]
) -> None:
    with pytest.raises(RecipeError, match=sentence):
        study(settings, name="other", space=[axis])


def test_teacher_of_other_validation_images_is_refused(settings: tuple[str, ...]) -> None:
    with pytest.raises(
        lineage.LineageError, match=r"data\.seed and data\.validation must be those of models:/d"
    ):
        study(settings, name="other", overrides=[*settings, "data.seed=3"])
