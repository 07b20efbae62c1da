from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from lineage.errors import IntegrityError
from lineage.registry.family.family import Version
from lineage.registry.store.transfers import Transfer, log_transfer, read_transfers

AddVersion = Callable[..., Version]


@pytest.fixture
def version(registry: Any, add_version: AddVersion, log_one: Callable[..., Any]) -> Version:
    """A version with a logged model of its own, to which other tests' numbers do not stick."""
    return add_version(logged=log_one())


def result_of(version: Version, **changes: Any) -> Transfer:
    result = Transfer(
        version=version,
        target="hub:owner's/tiles",
        target_digest="t" * 64,
        probe="logistic",
        seed=3,
        settings={"data.validation": 0.1, "data.train_samples": None},
        chosen={"C": 0.01},
        metrics={"transfer_accuracy": 0.75, "transfer_validation_accuracy": 0.5, "transfer_seconds": 2.0},
        key="k" * 64,
        notes=("Grey is repeated to 3 channels.",),
    )
    return replace(result, **changes)


def test_result_is_read_as_it_was_written(version: Version) -> None:
    written = log_transfer(result_of(version))
    assert written.run_id
    assert read_transfers(version) == (written,)
    assert replace(written, run_id="") == result_of(version)


def test_results_of_several_targets_are_read_oldest_first(version: Version) -> None:
    written = [log_transfer(result_of(version, target=target)) for target in ("digits", "tiles")]
    assert read_transfers(version) == tuple(written)


def test_version_without_results_has_none(version: Version, add_version: AddVersion) -> None:
    other = replace(version, model_id="m-unknown")
    log_transfer(result_of(version))
    assert read_transfers(other) == ()
    assert read_transfers(replace(version, name="nobody")) == ()


def test_run_is_nested_under_the_versions_and_closed(version: Version) -> None:
    run = MlflowClient().get_run(log_transfer(result_of(version)).run_id)
    assert run.data.tags["mlflow.parentRunId"] == version.run_id
    assert run.info.experiment_id == MlflowClient().get_run(version.run_id).info.experiment_id
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time >= 1900
    assert f"[{version.id}](#/models/" in run.data.tags["mlflow.note.content"]
    assert run.data.params["C"] == "0.01"
    assert run.data.params["data.validation"] == "0.1"
    assert "lineage.key" not in run.data.tags  # which marks runs that train a generation


def test_run_was_given_the_model_and_the_target(version: Version) -> None:
    run = MlflowClient().get_run(log_transfer(result_of(version)).run_id)
    assert [given.model_id for given in run.inputs.model_inputs] == [version.model_id]
    (target,) = run.inputs.dataset_inputs
    assert (target.dataset.name, target.dataset.digest) == ("hub:owner's/tiles", "t" * 36)
    assert [(tag.key, tag.value) for tag in target.tags] == [("mlflow.data.context", "transfer")]


def test_logged_model_carries_the_metrics_with_their_data(version: Version) -> None:
    run_id = log_transfer(result_of(version)).run_id
    found = [m for m in MlflowClient().get_logged_model(version.model_id).metrics or () if m.run_id == run_id]
    assert {m.key: m.value for m in found} == result_of(version).metrics
    assert {(m.dataset_name, m.dataset_digest) for m in found} == {("hub:owner's/tiles", "t" * 36)}


def test_models_are_found_by_their_accuracy_on_the_target(version: Version) -> None:
    log_transfer(result_of(version, target="tiles-of-this-test"))
    found = mlflow.search_logged_models(
        experiment_ids=[MlflowClient().get_run(version.run_id).info.experiment_id],
        filter_string="metrics.transfer_accuracy > 0.7",
        datasets=[{"dataset_name": "tiles-of-this-test", "dataset_digest": "t" * 36}],
        output_format="list",
    )
    assert [model.model_id for model in found] == [version.model_id]


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("seed", "three"),
        ("settings", "[]"),
        ("settings", "{"),
        ("chosen", '{"C": "much"}'),
        ("notes", "5"),
        ("notes", "[1]"),
        ("notes", "[" * 5000),
    ],
)
def test_altered_tags_are_refused(version: Version, tag: str, value: str) -> None:
    run_id = log_transfer(result_of(version)).run_id
    MlflowClient().set_tag(run_id, f"lineage.transfer.{tag}", value)
    with pytest.raises(IntegrityError, match=f"The tags of run {run_id} must be those that lineage gave it"):
        read_transfers(version)
