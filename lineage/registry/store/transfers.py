"""Transfers of versions to other data sets: runs nested under those that trained the versions."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE
from pydantic import TypeAdapter

from lineage.errors import IntegrityError
from lineage.formats import read_problem
from lineage.registry.family.cards import version_link
from lineage.registry.family.family import Version
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.runs import dataset_input, log_inputs, metrics_now, open_run
from lineage.registry.store.search import search_runs

TRANSFER_TAG = TAG + "transfer."

_SETTINGS = TypeAdapter(dict[str, Any])
_NUMBERS = TypeAdapter(dict[str, float])
_NOTES = TypeAdapter(tuple[str, ...])


@dataclass(frozen=True)
class Transfer:
    """The result of one version on another data set.

    Attributes:
        version: Version whose features or weights were used.
        target: Name of the other data set.
        target_digest: Digest of its contents.
        probe: Classifier that was put on the features, or ``finetune``.
        seed: Seed of everything drawn.
        settings: Settings of the target's data and, with ``finetune``, of the training.
        chosen: Hyperparameters that validation chose, by name.
        metrics: ``transfer_accuracy`` on the target's test part, ``transfer_seconds`` and others.
        key: Digest of everything the metrics depend on, on one machine.
        notes: Sentences on what was done to the images, and on what did not converge.
        run_id: Id of the run that holds all this; "" before it is written.
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
        """Return plain values for ``--json``."""
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
    """Log a result as a run of its own, nested under the one that trained the version.

    The version's logged model is the run's input and carries the metrics; the target is the run's dataset
    input, and the metrics name it. ``read_transfers`` finds it by its tags ``lineage.transfer.…``.

    Returns:
        ``result`` with the run's id.
    """
    connect()
    version = result.version
    seconds = result.metrics.get("transfer_seconds", 0.0)
    run_id = open_run(
        ensure_experiment(version.name),
        f"{version.id} to {result.target}, {result.probe}",
        _tags(result),
        {"probe": result.probe, "seed": result.seed} | result.settings | result.chosen,
        start_time=int(1000 * (time.time() - seconds)),
    )
    target = dataset_input(result.target, result.target_digest, "transfer")
    log_inputs(run_id, target, [version])
    metrics = metrics_now(
        result.metrics,
        model_id=version.model_id,
        dataset_name=target.dataset.name,
        dataset_digest=target.dataset.digest,
        run_id=run_id,
    )
    client = MlflowClient()
    client.log_batch(run_id, metrics)
    client.set_terminated(run_id, "FINISHED")
    return replace(result, run_id=run_id)


@translated_errors()
def read_transfers(version: Version) -> tuple[Transfer, ...]:
    """Return all results of ``version`` that the store holds, oldest first.

    Raises:
        IntegrityError: If a run's tags were altered.
    """
    runs = _finished_runs(version.name, f"tags.`{TRANSFER_TAG}model_id` = '{version.model_id}'")
    return tuple(_from_run(run, version) for run in runs)


@translated_errors()
def read_transfer_accuracies(name: str) -> dict[str, dict[tuple[str, str], float]]:
    """Return test accuracies on other data sets, by model id, then by target and probe.

    One search for the whole family; of several results with one target and probe the newest counts.
    """
    found: dict[str, dict[tuple[str, str], float]] = {}
    for run in _finished_runs(name, f"tags.`{TRANSFER_TAG}to` != ''"):
        tags, accuracy = run.data.tags, run.data.metrics.get("transfer_accuracy")
        target = (tags.get(TRANSFER_TAG + "to", ""), tags.get(TRANSFER_TAG + "probe", ""))
        if accuracy is not None:
            found.setdefault(tags.get(TRANSFER_TAG + "model_id", ""), {})[target] = accuracy
    return found


@translated_errors()
def newest_transfer(experiment: str) -> str:
    """Return id and status of an experiment's last transfer run, as one text; "" if there is none."""
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


def _from_run(run: Run, version: Version) -> Transfer:
    tags: Mapping[str, str] = run.data.tags
    try:
        return Transfer(
            version=version,
            target=tags[TRANSFER_TAG + "to"],
            target_digest=tags[TRANSFER_TAG + "to_digest"],
            probe=tags[TRANSFER_TAG + "probe"],
            seed=int(tags[TRANSFER_TAG + "seed"]),
            settings=_SETTINGS.validate_json(tags[TRANSFER_TAG + "settings"]),
            chosen=_NUMBERS.validate_json(tags[TRANSFER_TAG + "chosen"]),
            metrics=dict(run.data.metrics),
            key=tags[TRANSFER_TAG + "key"],
            notes=_NOTES.validate_json(tags[TRANSFER_TAG + "notes"]),
            run_id=str(run.info.run_id),
        )
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"The tags of run {run.info.run_id} must be those that lineage gave it, but one is missing or"
            f" altered: {read_problem(error)}; correct it in MLflow, or delete the run."
        ) from error
