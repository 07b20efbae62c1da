from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.registry.family.aliases import point_alias
from lineage.registry.family.family import Version
from lineage.registry.family.history import read_history
from lineage.registry.family.lookup import find_version
from lineage.registry.store.runs import GenerationRun
from lineage.registry.store.study_runs import (
    StudyRun,
    epoch_values,
    resume_study_run,
    start_study_run,
)

AddVersion = Callable[..., Version]


@pytest.fixture
def study(registry: Any, name: str) -> StudyRun:
    """The run of a study, in each store."""
    return start_study_run(name, {"objective": "accuracy"}, {"sampler": "tpe", "space": "x" * 900})


def test_trial_stands_below_its_study_and_points_to_its_generations(
    study: StudyRun, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version()
    student = add_version(patriarch)
    trial = study.start_trial(7, {"patriarch.strictness": 0.5})
    trial.add_generation(patriarch, was_trained=False)
    trial.add_generation(student, was_trained=True)
    trial.log_step("validation_accuracy", 0.25, 3)
    trial.close("COMPLETE", {"accuracy": 0.75})
    run = MlflowClient().get_run(trial.run_id)
    tags = run.data.tags
    assert (tags["mlflow.parentRunId"], tags["lineage.study"], tags["lineage.trial"]) == (
        study.run_id,
        name,
        "7",
    )
    assert [tags[f"lineage.trial.generation.{index}"] for index in (0, 1)] == [patriarch.id, student.id]
    assert [tags[f"lineage.trial.generation.{index}.trained"] for index in (0, 1)] == ["false", "true"]
    assert {given.model_id for given in run.inputs.model_inputs} == {patriarch.model_id, student.model_id}
    assert run.data.params == {"patriarch.strictness": "0.5"}
    assert run.data.metrics == {"validation_accuracy": 0.25, "objective_accuracy": 0.75}
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("state", "status"), [("PRUNED", "KILLED"), ("FAIL", "FAILED"), ("KILLED", "KILLED")]
)
def test_trial_that_did_not_end_well_says_why(state: str, status: str, study: StudyRun) -> None:
    trial = study.start_trial(0, {})
    trial.close(state, {}, "a reason")
    run = MlflowClient().get_run(trial.run_id)
    assert (run.info.status, run.data.tags["lineage.trial.state"]) == (status, state)
    assert run.data.tags["lineage.trial.reason"] == "a reason"


def test_run_of_a_study_is_opened_again_while_the_store_has_it(study: StudyRun, name: str) -> None:
    study.update({"trials_complete": 3.0}, "a note")
    study.stop("KILLED")
    assert resume_study_run(study.run_id, name) == study
    run = MlflowClient().get_run(study.run_id)
    assert run.info.status == "RUNNING"
    assert (run.data.metrics["trials_complete"], run.data.tags["mlflow.note.content"]) == (3.0, "a note")
    assert run.data.params["space"] == "x" * 500
    MlflowClient().delete_run(study.run_id)
    assert resume_study_run(study.run_id, name) is None
    assert resume_study_run("0" * 32, name) is None


def test_epochs_of_a_version_are_those_of_its_run(
    registry: Any, open_run: Callable[..., GenerationRun], add_version: AddVersion
) -> None:
    run = open_run()
    for epoch, value in enumerate((0.25, 0.5), start=1):
        run.log_epoch({"validation_accuracy": value}, epoch)
    version = add_version()
    known = Version(version.name, version.version, run_id=run.run_id)
    assert epoch_values(known, "validation_accuracy") == {1: 0.25, 2: 0.5}
    assert epoch_values(known, "validation_entropy") == {}
    assert epoch_values(Version(version.name, version.version), "validation_accuracy") == {}
    assert epoch_values(Version(version.name, 1, run_id="0" * 32), "validation_accuracy") == {}


def test_alias_of_the_winner_moves_and_is_logged_once(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    first, second = add_version(), add_version()
    alias = f"best-of-{name}"
    for winner in (first, first, second):
        point_alias(winner, alias)
    assert find_version(f"models:/{name}@{alias}").id == second.id
    moves = [event for event in read_history(name) if event.alias == alias]
    assert [(move.version, move.previous) for move in moves] == [(1, None), (2, 1)]
