"""What versions were found to do elsewhere: runs that are linked to them, beside those that trained them."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, Run, RunStatus
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from lineage.errors import IntegrityError
from lineage.registry.family.cards import version_link
from lineage.registry.family.family import TAG, Version
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.progress import search_runs

TRANSFER_TAG = TAG + "transfer."

_LONGEST_DIGEST = 36  # MLflow's limit for a data set's


@dataclass(frozen=True)
class Transfer:
    """What one version is worth on another data set.

    Attributes:
        version: Whose features or weights were used.
        target: Name of the other data set.
        target_digest: Of its contents.
        probe: What was put on the features, or ``finetune``.
        seed: Of what was drawn.
        settings: Of the target's data and, where the network was trained on, of that training.
        chosen: What validation chose, by name.
        metrics: ``transfer_accuracy`` on the target's test part, ``transfer_seconds`` and others.
        key: Digest of everything the numbers depend on, on one machine.
        notes: Sentences on what was done to the images, and on what did not end well.
        run_id: Of the run that holds all this; "" before it is written.
    """

    version: Version
    target: str
    target_digest: str
    probe: str
    seed: int
    settings: dict[str, Any]
    chosen: dict[str, float]
    metrics: dict[str, float]
    key: str
    notes: tuple[str, ...] = field(default=())
    run_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "uri": self.version.uri,
            "generation": self.version.generation,
            "target": self.target,
            "target_digest": self.target_digest,
            "probe": self.probe,
            "seed": self.seed,
            "settings": self.settings,
            "chosen": self.chosen,
            "metrics": self.metrics,
            "key": self.key,
            "notes": list(self.notes),
            "run_id": self.run_id,
        }


@translated_errors()
def log_transfer(result: Transfer) -> Transfer:
    """Write a result to a run of its own, under the one that trained the version.

    The version's logged model is the run's input and carries the metrics; the target is the run's dataset
    input, and the metrics name it. Tags ``lineage.transfer.…`` let ``read_transfers`` find it.

    Returns:
        ``result`` with the run's id.
    """
    client = connect()
    version = result.version
    now = int(time.time() * 1000)
    run = client.create_run(
        ensure_experiment(version.name),
        start_time=now - int(1000 * result.metrics.get("transfer_seconds", 0.0)),
        tags=resolve_tags(_tags(result)),
        run_name=f"{version.id} to {result.target}, {result.probe}",
    )
    run_id = str(run.info.run_id)
    _log_inputs(client, run_id, result)
    digest = result.target_digest[:_LONGEST_DIGEST]
    metrics = [
        Metric(
            name,
            value,
            now,
            0,
            model_id=version.model_id,
            dataset_name=result.target,
            dataset_digest=digest,
            run_id=run_id,
        )
        for name, value in result.metrics.items()
    ]
    settings = {"probe": result.probe, "seed": result.seed} | result.settings | result.chosen
    client.log_batch(run_id, metrics, [Param(name, str(value)) for name, value in settings.items()])
    client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED))
    return replace(result, run_id=run_id)


@translated_errors()
def read_transfers(version: Version) -> tuple[Transfer, ...]:
    """All results of ``version`` that the store holds, oldest first.

    Raises:
        IntegrityError: If a run's tags were altered.
    """
    runs = _finished_runs(version.name, f"tags.`{TRANSFER_TAG}model_id` = '{version.model_id}'")
    return tuple(_from_run(run, version) for run in runs)


@translated_errors()
def read_transfer_accuracies(name: str) -> dict[str, dict[tuple[str, str], float]]:
    """Test accuracies that versions of the family reached elsewhere: by model id, by target and probe.

    One search for the whole family; the newest result of a kind counts.
    """
    found: dict[str, dict[tuple[str, str], float]] = {}
    for run in _finished_runs(name, f"tags.`{TRANSFER_TAG}to` != ''"):
        tags, accuracy = run.data.tags, run.data.metrics.get("transfer_accuracy")
        kind = (tags.get(TRANSFER_TAG + "to", ""), tags.get(TRANSFER_TAG + "probe", ""))
        if accuracy is not None:
            found.setdefault(tags.get(TRANSFER_TAG + "model_id", ""), {})[kind] = accuracy
    return found


@translated_errors()
def newest_transfer(experiment: str) -> str:
    """The id of the last run in an experiment that transferred a version; "" where there is none."""
    found = connect().search_runs(
        [experiment], f"tags.`{TRANSFER_TAG}to` != ''", order_by=["attributes.start_time DESC"], max_results=1
    )
    return str(found[0].info.run_id) + str(found[0].info.status) if found else ""


def _finished_runs(name: str, condition: str) -> list[Run]:
    return search_runs(name, f"{condition} AND attributes.status = 'FINISHED'")


def _tags(result: Transfer) -> dict[str, str]:
    version = result.version
    tags = {
        "version": version.id,
        "model_id": version.model_id,
        "weights_sha256": version.weights_sha256,
        "to": result.target,
        "to_digest": result.target_digest,
        "probe": result.probe,
        "seed": str(result.seed),
        "settings": json.dumps(result.settings),
        "chosen": json.dumps(result.chosen),
        "notes": json.dumps(result.notes),
        "key": result.key,
    }
    accuracy = result.metrics.get("transfer_accuracy")
    numbers = "" if accuracy is None else f": test accuracy {accuracy:.2%}"
    note = f"Transfer of {version_link(version.id)} to {result.target}{numbers}."
    parent = {MLFLOW_PARENT_RUN_ID: version.run_id} if version.run_id else {}
    return {TRANSFER_TAG + name: value for name, value in tags.items()} | {MLFLOW_RUN_NOTE: note} | parent


def _log_inputs(client: MlflowClient, run_id: str, result: Transfer) -> None:
    """The version's model and the target, as what the run was given."""
    dataset = Dataset(
        result.target,
        result.target_digest[:_LONGEST_DIGEST],
        source_type="lineage",
        source=json.dumps({"name": result.target}),
    )
    context = InputTag(MLFLOW_DATASET_CONTEXT, "transfer")
    client.log_inputs(
        run_id,
        datasets=[DatasetInput(dataset, [context])],
        models=[LoggedModelInput(result.version.model_id)],
    )


def _from_run(run: Run, version: Version) -> Transfer:
    tags: Mapping[str, str] = run.data.tags
    try:
        return Transfer(
            version=version,
            target=tags[TRANSFER_TAG + "to"],
            target_digest=tags[TRANSFER_TAG + "to_digest"],
            probe=tags[TRANSFER_TAG + "probe"],
            seed=int(tags[TRANSFER_TAG + "seed"]),
            settings=json.loads(tags[TRANSFER_TAG + "settings"]),
            chosen=json.loads(tags[TRANSFER_TAG + "chosen"]),
            metrics=dict(run.data.metrics),
            key=tags[TRANSFER_TAG + "key"],
            notes=tuple(json.loads(tags[TRANSFER_TAG + "notes"])),
            run_id=str(run.info.run_id),
        )
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"The tags of run {run.info.run_id} must be those that lineage gave it, but one is missing or"
            f" altered: {error}; put it right in MLflow, or delete the run."
        ) from error
