from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.errors import IntegrityError
from lineage.registry.care.remove import read_tombstones, remove
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_family
from lineage.registry.store.runs import GenerationRun

AddVersion = Callable[..., Version]
OpenRun = Callable[..., GenerationRun]


@pytest.fixture
def teacher(registry: Any, add_version: AddVersion, log_one: Callable[..., Any]) -> Version:
    """A version without students, whose own run is finished."""
    logged = log_one()
    logged.run.stop("FINISHED")
    return add_version(logged=logged)


@pytest.mark.parametrize("family", ["", "-other"])
def test_teacher_of_a_student_in_training_is_removed_by_force_alone(
    name: str, teacher: Version, add_version: AddVersion, open_run: OpenRun, family: str
) -> None:
    run = open_run(teacher, experiment=name + family)
    with pytest.raises(IntegrityError) as caught:
        remove(teacher.uri)
    assert str(caught.value) == (
        f"{teacher.uri} must have no work in progress to be removed, but run {run.run_id} (tiles generation)"
        " needs it; wait for it, leave a tombstone with --force, or, if it is dead, run"
        f" 'lineage doctor {name}{family} --fix --kill-runs'."
    )
    assert [version.id for version in read_family(name)] == [teacher.id]
    assert remove(teacher.uri, force=True).tombstone
    student = add_version(teacher, family=name + family)
    assert [stone.version.id for stone in read_tombstones(name)] == [teacher.id]
    assert (student.teacher, student.id == teacher.id) == (teacher.id, False)


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_run_that_ended_does_not_hold_its_teacher(
    name: str, teacher: Version, open_run: OpenRun, status: str
) -> None:
    open_run(teacher).stop(status)
    assert not remove(teacher.uri).tombstone
    assert len(read_family(name)) == 0


def test_registered_model_that_was_deleted_is_called_that(
    name: str, teacher: Version, add_version: AddVersion
) -> None:
    MlflowClient().delete_registered_model(name)
    with pytest.raises(IntegrityError) as caught:
        add_version(teacher)
    assert str(caught.value) == (
        f"The registered model '{name}' must hold {teacher.id}, which a new version descends from, but was"
        " deleted, as in MLflow's UI; run the same command again to grow the family anew."
    )
    assert MlflowClient().search_registered_models(f"name = '{name}'") == []
