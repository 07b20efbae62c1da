import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from lineage.data.datasets import DataSpec
from lineage.errors import NotFoundError
from lineage.registry.family.family import Version
from lineage.registry.flavor import LoadedModel, log_model
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import GenerationRun, resume_run

OpenRun = Callable[..., GenerationRun]


def stored(run: GenerationRun) -> Any:
    return MlflowClient().get_run(run.run_id)


def test_run_of_a_patriarch_has_no_parent_and_no_teacher(registry: Any, open_run: OpenRun, name: str) -> None:
    run = stored(open_run())
    assert (run.info.status, run.info.run_name) == ("RUNNING", "tiles generation")
    assert run.info.experiment_id == ensure_experiment(name)
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.inputs.model_inputs == []


def test_run_of_a_student_is_nested_under_its_teachers(
    registry: Any, open_run: OpenRun, add_version: Callable[..., Version]
) -> None:
    teacher = add_version()
    run = stored(open_run(teacher))
    assert run.data.tags["mlflow.parentRunId"] == teacher.run_id
    assert [taken.model_id for taken in run.inputs.model_inputs] == [teacher.model_id]


def test_run_says_what_it_is(registry: Any, open_run: OpenRun) -> None:
    run = stored(open_run())
    assert (run.data.tags["lineage.key"], run.data.tags["lineage.generation"]) == ("k", "0")
    assert run.data.params == {"training.epochs": "2", "network.width": "None"}


def test_run_keeps_its_recipe(registry: Any, open_run: OpenRun) -> None:
    uri = f"runs:/{open_run().run_id}/recipe.json"
    assert mlflow.artifacts.load_text(uri) == '{"recipe": true}'


@pytest.mark.parametrize("data_name", ["tiles", 'hub:owner\'s/the "best"'])
def test_run_names_its_data(registry: Any, open_run: OpenRun, tiles: DataSpec, data_name: str) -> None:
    run = stored(open_run(data=replace(tiles, name=data_name)))
    (taken,) = run.inputs.dataset_inputs
    assert (taken.dataset.name, taken.dataset.digest) == (data_name, tiles.digest[:36])
    assert json.loads(taken.dataset.source) == {"name": data_name}
    assert [(tag.key, tag.value) for tag in taken.tags] == [("mlflow.data.context", "training")]


def test_epoch_is_logged_with_its_number(registry: Any, open_run: OpenRun) -> None:
    run = open_run()
    for epoch in (1, 2):
        run.log_epoch({"loss": 1 / epoch, "validation_accuracy": 0.5}, epoch)
    found = MlflowClient().get_metric_history(run.run_id, "loss")
    assert [(metric.step, metric.value) for metric in found] == [(1, 1.0), (2, 0.5)]
    assert stored(run).data.tags["lineage.epoch"] == "2"


def test_epoch_is_logged_in_one_call(http_registry: Any, open_run: OpenRun) -> None:
    run = open_run()
    requests_made = http_registry.requests_during(lambda: run.log_epoch({"loss": 1.0, "top1": 0.5}, 1))
    assert len(requests_made) == 1
    assert "runs/log-batch" in requests_made[0]


def test_model_is_an_output_of_its_run_and_no_input(
    registry: Any, open_run: OpenRun, model: LoadedModel, name: str
) -> None:
    run = open_run()
    run.log_epoch({"loss": 0.25}, 2)
    model_id = log_model(model, f"{name}-generation-0", run.run_id, {"test_accuracy": 0.5}, 2)
    found = stored(run)
    assert [given.model_id for given in found.outputs.model_outputs] == [model_id]
    assert found.inputs.model_inputs == []
    assert found.data.metrics == {"loss": 0.25, "test_accuracy": 0.5}
    logged = MlflowClient().get_logged_model(model_id)
    assert (logged.name, logged.source_run_id) == (f"{name}-generation-0", run.run_id)
    assert logged.experiment_id == found.info.experiment_id
    assert {metric.key: metric.value for metric in logged.metrics or ()} == {
        "loss": 0.25,
        "test_accuracy": 0.5,
    }


def test_model_is_named_without_what_mlflow_refuses(
    registry: Any, open_run: OpenRun, model: LoadedModel
) -> None:
    model_id = log_model(model, 'it\'s v1.0: 50% "a/b"', open_run().run_id, {}, 1)
    assert MlflowClient().get_logged_model(model_id).name == "it_s v1_0_ 50_ _a_b_"


def test_finished_run_points_to_its_version(
    registry: Any, open_run: OpenRun, add_version: Callable[..., Version]
) -> None:
    run, version = open_run(), add_version()
    run.finish(version)
    found = stored(run)
    assert found.info.status == "FINISHED"
    assert found.info.end_time is not None
    assert found.data.tags["lineage.version"] == version.id
    link = f"[{version.id}](#/models/{version.name}/versions/{version.version})"
    assert found.data.tags["mlflow.note.content"] == f"Gave {link}."


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_stopped_run_is_resumed_and_finished(
    registry: Any, open_run: OpenRun, add_version: Callable[..., Version], status: str
) -> None:
    run = open_run()
    run.log_epoch({"loss": 1.0}, 1)
    run.stop(status)
    assert stored(run).info.status == status
    resumed = resume_run(run.run_id)
    assert resumed == run
    assert stored(run).info.status == "RUNNING"
    resumed.log_epoch({"loss": 0.5}, 2)
    resumed.finish(add_version())
    found = stored(run)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 0.5})


def test_run_that_the_store_does_not_hold_is_not_resumed(registry: Any) -> None:
    with pytest.raises(NotFoundError, match="0" * 32):
        resume_run("0" * 32)


def test_run_that_was_deleted_is_not_resumed(registry: Any, open_run: OpenRun) -> None:
    run = open_run()
    MlflowClient().delete_run(run.run_id)
    with pytest.raises(NotFoundError, match=f"Run {run.run_id} must be active .* but was deleted"):
        resume_run(run.run_id)
