"""MLflow runs: one a generation, nested under its teacher's, resumable."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from lineage.data.datasets import DataSpec
from lineage.errors import NotFoundError
from lineage.registry.family.cards import version_link
from lineage.registry.family.family import TAG, Version
from lineage.registry.flavor import RECIPE_FILE, LoadedModel, log_model
from lineage.registry.store.connection import translated_errors

PAGE_FILE = "family.html"
_LONGEST_DIGEST = 36  # MLflow's limit for a data set's


@dataclass(frozen=True)
class GenerationRun:
    """The run of one generation, open until its version is registered.

    Attributes:
        run_id: MLflow's.
    """

    run_id: str

    @translated_errors()
    def log_epoch(self, record: Mapping[str, float], epoch: int) -> None:
        """Log one epoch's numbers and say how far the run is, in one call."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, epoch) for name, value in record.items()]
        progress = {"epoch": str(epoch), "epoch_ended": str(now)}
        tags = [RunTag(TAG + name, value) for name, value in progress.items()]
        MlflowClient().log_batch(self.run_id, metrics, tags=tags)

    @translated_errors()
    def log_model(self, model: LoadedModel, name: str, metrics: Mapping[str, float], epoch: int) -> str:
        """Log the network as the run's output, with the numbers of ``epoch`` and its final ones on it.

        Returns:
            The ``m-…`` id it got.
        """
        model_id = log_model(model, name, self.run_id, epoch)
        client = MlflowClient()
        logged = client.get_run(self.run_id).data.metrics
        now = int(time.time() * 1000)
        final = [
            Metric(key, value, now, epoch, model_id=model_id)
            for key, value in metrics.items()
            if key not in logged
        ]
        client.log_batch(self.run_id, final)
        return model_id

    @translated_errors()
    def finish(self, version: Version) -> None:
        """Close the run and point it to the version it gave."""
        note = f"Gave {version_link(version.id)}."
        tags = [RunTag(TAG + "version", version.id), RunTag(MLFLOW_RUN_NOTE, note)]
        MlflowClient().log_batch(self.run_id, tags=tags)
        MlflowClient().set_terminated(self.run_id, RunStatus.to_string(RunStatus.FINISHED))

    @translated_errors()
    def abandon(self, reason: str) -> None:
        """Close the run of a generation that is not worth more training, with the reason as a tag."""
        MlflowClient().log_batch(self.run_id, tags=[RunTag(TAG + "abandoned", reason)])
        MlflowClient().set_terminated(self.run_id, RunStatus.to_string(RunStatus.KILLED))

    @translated_errors()
    def stop(self, status: str) -> None:
        """Close the run as ``FAILED`` or ``KILLED``; running again opens it anew."""
        MlflowClient().set_terminated(self.run_id, status)


@translated_errors()
def start_run(
    experiment_id: str,
    name: str,
    inputs: Sequence[Version],
    tags: Mapping[str, str],
    recipe: str,
    parameters: Mapping[str, Any],
    data: DataSpec,
) -> GenerationRun:
    """Open a run under its teacher's, with the teacher as model input and the data set as dataset input.

    Args:
        experiment_id: Where the family's runs lie.
        name: Shown in the runs table.
        inputs: What the model comes from: a student's teacher, an ensemble's members, nothing for a
            patriarch. The run is nested under that of the last.
        tags: Without the ``lineage.`` prefix.
        recipe: The resolved recipe as JSON.
        parameters: The recipe again, flat, for the UI's comparisons.
        data: The data set trained on.
    """
    client = MlflowClient()
    all_tags = resolve_tags({TAG + key: value for key, value in tags.items()})
    if inputs and inputs[-1].run_id:
        all_tags[MLFLOW_PARENT_RUN_ID] = inputs[-1].run_id
    run = client.create_run(experiment_id, tags=all_tags, run_name=name)
    run_id = str(run.info.run_id)
    dataset = Dataset(
        data.name,
        data.digest[:_LONGEST_DIGEST],
        source_type="lineage",
        source=json.dumps({"name": data.name}),
    )
    client.log_inputs(
        run_id,
        datasets=[DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])],
        models=[LoggedModelInput(version.model_id) for version in inputs],
    )
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])
    if recipe:
        client.log_text(run_id, recipe, RECIPE_FILE)
    return GenerationRun(run_id)


@translated_errors()
def keep_page(run_id: str, page: str) -> None:
    """Keep an HTML page as an artifact of a run, where MLflow's UI shows it."""
    MlflowClient().log_text(run_id, page, PAGE_FILE)


@translated_errors()
def resume_run(run_id: str) -> GenerationRun:
    """Open again a run that a killed or interrupted process left.

    Raises:
        NotFoundError: If the store no longer holds it, or somebody deleted it.
    """
    client = MlflowClient()
    if client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
        raise NotFoundError(
            f"Run {run_id} must be active to be resumed, but was deleted; restore it in MLflow."
        )
    client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    return GenerationRun(run_id)
