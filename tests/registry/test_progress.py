from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.data.datasets import DataSpec
from lineage.registry.family.family import Version
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.progress import read_growing, read_settings
from lineage.registry.store.runs import GenerationRun, start_run


def start(name: str, teacher: Version | None, tiles: DataSpec, **tags: str) -> GenerationRun:
    own = {"key": "k", "generation": "1", "seed": "5", "epochs": "8"} | tags
    teachers = () if teacher is None else (teacher,)
    return start_run(ensure_experiment(name), "one", teachers, own, "{}", {}, tiles)


def test_family_without_runs_grows_nothing(registry: object, name: str) -> None:
    assert read_growing(name) == ()


def test_running_generation_says_how_far_it_is(
    registry: object,
    name: str,
    add_version: Callable[..., Version],
    log_one: Callable[..., Any],
    tiles: DataSpec,
) -> None:
    teacher = add_version(logged=log_one())  # in a run of its own, below which another one stays open
    run = start(name, teacher, tiles)
    (before,) = [one for one in read_growing(name) if one.run_id == run.run_id]
    assert (before.generation, before.seed, before.epoch, before.epochs) == (1, 5, 0, 8)
    assert before.teacher_run_id == teacher.run_id
    run.log_epoch({"loss": 0.1}, 3)
    (after,) = [one for one in read_growing(name) if one.run_id == run.run_id]
    assert after.epoch == 3
    assert after.last_update >= before.last_update


@pytest.mark.parametrize("altered", ["soon", "", "9" * 5000])
def test_altered_progress_is_none(sqlite_registry: object, name: str, tiles: DataSpec, altered: str) -> None:
    start(name, None, tiles, epoch=altered, epoch_ended=altered)
    (found,) = read_growing(name)
    assert (found.epoch, found.epochs) == (0, 8)
    assert found.last_update > 0


def test_run_that_ended_grows_no_more(
    registry: object, name: str, add_version: Callable[..., Version], tiles: DataSpec
) -> None:
    version = add_version()
    finished, killed, failed = (start(name, version, tiles) for _ in range(3))
    finished.finish(version)
    killed.stop("KILLED")
    failed.stop("FAILED")
    ended = {finished.run_id, killed.run_id, failed.run_id}
    assert not ended & {one.run_id for one in read_growing(name)}


def test_settings_are_those_of_the_run(registry: object, add_version: Callable[..., Version]) -> None:
    version = add_version()
    found = read_settings(version.run_id)
    assert found.values == {"training.epochs": "2", "network.width": "None"}
    assert found.experiment == MlflowClient().get_run(version.run_id).info.experiment_id


def test_settings_of_a_run_that_is_gone_are_none(
    registry: object, add_version: Callable[..., Version]
) -> None:
    add_version()
    assert read_settings("").values == {}
    assert read_settings("0" * 32).values == {}
