"""MLflow runs: opened with tags and inputs, one for each generation, resumable; imports no torch."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    LoggedModelInput,
    Metric,
    Param,
    RunStatus,
    RunTag,
)
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from lineage.errors import NotFoundError
from lineage.registry.family.cards import version_link
from lineage.registry.family.family import Version
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import translated_errors
from lineage.registry.store.mlflow_internals import resolve_tags

PAGE_FILE = "family.html"
RECIPE_FILE = "recipe.json"
FLAVOR_NAME = "lineage"
EPOCH_METRIC = "train_loss"
"""Metric that every epoch has."""

_LONGEST_DIGEST = 36  # MLflow's limit for the digest of a dataset input

_TAGS: ContextVar[Mapping[str, str]] = ContextVar("lineage_run_tags", default={})  # noqa: B039 - never changed


class NamedData(Protocol):
    """A data set with a name and a digest of its contents, such as a ``DataSpec``."""

    @property
    def name(self) -> str:
        """Name in a recipe."""

    @property
    def digest(self) -> str:
        """SHA-256 of the contents."""


@contextmanager
def tagging_runs(tags: Mapping[str, str]) -> Iterator[None]:
    """Give ``tags`` to every MLflow run that starts inside the block, beside those of enclosing blocks.

    The plugin for run contexts hands them to MLflow.

    Args:
        tags: Tags without the ``lineage.`` prefix.
    """
    before = _TAGS.set({**_TAGS.get(), **tags})
    try:
        yield
    finally:
        _TAGS.reset(before)


def run_tags() -> Mapping[str, str]:
    """Return the tags that a run started now would get, without the ``lineage.`` prefix."""
    return _TAGS.get()


def open_run(
    experiment_id: str,
    run_name: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, Any],
    *,
    start_time: int | None = None,
) -> str:
    """Create a run in an experiment, without making it MLflow's active run.

    Args:
        experiment_id: Id of the experiment.
        run_name: Name in the table of runs.
        tags: Tags with their full names; those of the context are added.
        parameters: Parameters of the run.
        start_time: Start in milliseconds since the epoch; now by default.

    Returns:
        The run's id.
    """
    client = MlflowClient()
    run = client.create_run(experiment_id, start_time, tags=resolve_tags(dict(tags)), run_name=run_name)
    run_id = str(run.info.run_id)
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])
    return run_id


def dataset_input(name: str, digest: str, context: str) -> DatasetInput:
    """Return a data set as an input of a run; ``context`` is its use, such as ``training``."""
    source = json.dumps({"name": name})
    dataset = Dataset(name, digest[:_LONGEST_DIGEST], source_type="lineage", source=source)
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def log_inputs(run_id: str, data: DatasetInput, versions: Sequence[Version]) -> None:
    """Log a data set and the logged models of ``versions`` as inputs of a run."""
    models = [LoggedModelInput(version.model_id) for version in versions]
    MlflowClient().log_inputs(run_id, datasets=[data], models=models)


def metrics_now(values: Mapping[str, float], step: int = 0, **places: str) -> list[Metric]:
    """Return metrics with the present time; ``places`` are further arguments of ``Metric``."""
    now = int(time.time() * 1000)
    return [Metric(name, value, now, step, **places) for name, value in values.items()]


@dataclass(frozen=True)
class GenerationRun:
    """The run of one generation, open until its version is registered.

    Attributes:
        run_id: MLflow's id of the run.
    """

    run_id: str

    @translated_errors()
    def log_epoch(self, record: Mapping[str, float], epoch: int) -> None:
        """Log the metrics of one epoch, and the epoch's number and time as tags, in one call."""
        progress = {"epoch": str(epoch), "epoch_ended": str(int(time.time() * 1000))}
        tags = [RunTag(TAG + name, value) for name, value in progress.items()]
        MlflowClient().log_batch(self.run_id, metrics_now(record, epoch), tags=tags)

    @translated_errors()
    def logged_epochs(self) -> set[int]:
        """Return the epochs whose metrics are stored; ``log_epoch`` stores all of one or none."""
        return {point.step for point in MlflowClient().get_metric_history(self.run_id, EPOCH_METRIC)}

    @translated_errors()
    def finish(self, version: Version) -> None:
        """Close the run and link the version that it gave."""
        note = f"Gave {version_link(version.id)}."
        tags = [RunTag(TAG + "version", version.id), RunTag(MLFLOW_RUN_NOTE, note)]
        MlflowClient().log_batch(self.run_id, tags=tags)
        self.stop("FINISHED")

    @translated_errors()
    def abandon(self, reason: str) -> None:
        """Close the run of a generation that is not worth more training, with the reason as a tag."""
        MlflowClient().log_batch(self.run_id, tags=[RunTag(TAG + "abandoned", reason)])
        self.stop("KILLED")

    @translated_errors()
    def stop(self, status: str) -> None:
        """Close the run as ``FINISHED``, ``FAILED`` or ``KILLED``; ``resume_run`` opens it again."""
        MlflowClient().set_terminated(self.run_id, status)


@translated_errors()
def start_run(
    experiment_id: str,
    name: str,
    inputs: Sequence[Version],
    tags: Mapping[str, str],
    recipe: str,
    parameters: Mapping[str, Any],
    data: NamedData,
) -> GenerationRun:
    """Open a run nested under its teacher's, with the teacher as model input and the data as dataset input.

    Args:
        experiment_id: Id of the family's experiment.
        name: Name in the table of runs.
        inputs: Versions that the model comes from: a student's teacher, an ensemble's members, none for a
            patriarch. The run is nested under that of the last one.
        tags: Tags without the ``lineage.`` prefix.
        recipe: Resolved recipe as JSON, or "".
        parameters: The recipe again, flat, for comparisons in the UI.
        data: Data set trained on.
    """
    all_tags = {TAG + key: value for key, value in tags.items()}
    if inputs and inputs[-1].run_id:
        all_tags[MLFLOW_PARENT_RUN_ID] = inputs[-1].run_id
    run_id = open_run(experiment_id, name, all_tags, parameters)
    log_inputs(run_id, dataset_input(data.name, data.digest, "training"), inputs)
    if recipe:
        MlflowClient().log_text(run_id, recipe, RECIPE_FILE)
    return GenerationRun(run_id)


@translated_errors()
def keep_page(run_id: str, page: str) -> None:
    """Log an HTML page as an artifact of a run, where MLflow's UI shows it."""
    MlflowClient().log_text(run_id, page, PAGE_FILE)


@translated_errors()
def resume_run(run_id: str) -> GenerationRun:
    """Open a run again that a killed or interrupted process left.

    Raises:
        NotFoundError: If the store no longer holds it, or it was deleted.
    """
    client = MlflowClient()
    if client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
        raise NotFoundError(
            f"Run {run_id} must be active to be resumed, but was deleted; restore it in MLflow."
        )
    client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    return GenerationRun(run_id)
