"""What MLflow remembers of a study: one run for it, one below for each trial, and the winner's alias.

A trial's run points to its generations by tags and model inputs; their own runs stay where they belong, below
those of their teachers.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, LoggedModelInput, Metric, Param, RunStatus, RunTag
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from lineage.errors import NotFoundError
from lineage.registry.care.history import ALIAS, Event, record
from lineage.registry.family.cards import version_link
from lineage.registry.family.family import TAG, Version
from lineage.registry.family.register import point
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.entities import model_versions

STUDY_TAG = TAG + "study"
TRIAL_TAG = TAG + "trial"

_LONGEST_VALUE = 500  # of a parameter, in older stores
_REPORT = "report"


@dataclass(frozen=True)
class StudyRun:
    """The run of a study; those of its trials lie below it.

    Attributes:
        run_id: MLflow's.
        name: Of the study, its experiment and its family.
    """

    run_id: str
    name: str

    @translated_errors()
    def start_trial(self, number: int, values: Mapping[str, Any]) -> "TrialRun":
        """Open a run for one trial.

        Args:
            number: Of the trial.
            values: Of the keys that vary.
        """
        client = MlflowClient()
        tags = resolve_tags({STUDY_TAG: self.name, TRIAL_TAG: str(number)}) | {
            MLFLOW_PARENT_RUN_ID: self.run_id
        }
        run = client.create_run(ensure_experiment(self.name), tags=tags, run_name=f"trial {number}")
        run_id = str(run.info.run_id)
        client.log_batch(run_id, params=_parameters(values))
        return TrialRun(run_id)

    @translated_errors()
    def update(self, metrics: Mapping[str, float], note: str) -> None:
        """Log how far the study is, and say so in the run's note."""
        now = int(time.time() * 1000)
        found = [Metric(name, value, now, 0) for name, value in metrics.items()]
        MlflowClient().log_batch(self.run_id, found, tags=[RunTag(MLFLOW_RUN_NOTE, note)])

    @translated_errors()
    def stop(self, status: str) -> None:
        """Close the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        MlflowClient().set_terminated(self.run_id, status)

    @translated_errors()
    def log_report(self, files: Sequence[Path]) -> None:
        """Keep files as artifacts of the run, in the folder ``report``.

        Raises:
            NotFoundError: If the store no longer holds the run, or somebody deleted it.
        """
        if MlflowClient().get_run(self.run_id).info.lifecycle_stage == LifecycleStage.DELETED:
            raise NotFoundError(f"Run {self.run_id} must be active to take a report, but was deleted.")
        for file in files:
            MlflowClient().log_artifact(self.run_id, str(file), _REPORT)


@dataclass(frozen=True)
class TrialRun:
    """The run of one trial.

    Attributes:
        run_id: MLflow's.
    """

    run_id: str

    @translated_errors()
    def add_generation(self, version: Version, was_trained: bool) -> None:
        """Point to a generation of the trial, whether it was trained for it or pulled."""
        client = MlflowClient()
        tag = f"{TRIAL_TAG}.generation.{version.generation}"
        client.log_inputs(self.run_id, models=[LoggedModelInput(version.model_id)])
        client.log_batch(
            self.run_id,
            tags=[RunTag(tag, version.id), RunTag(f"{tag}.trained", str(was_trained).lower())],
        )

    @translated_errors()
    def log_step(self, metric: str, value: float, step: int) -> None:
        """Log a value that pruning looks at, under the step that it compares."""
        now = int(time.time() * 1000)
        MlflowClient().log_batch(self.run_id, [Metric(metric, value, now, step)])

    @translated_errors()
    def close(self, state: str, values: Mapping[str, float], reason: str = "") -> None:
        """Close the run.

        Args:
            state: Optuna's word for how the trial ended: COMPLETE, PRUNED or FAIL; or KILLED.
            values: Of the objectives, by name.
            reason: Why it did not end well.
        """
        now = int(time.time() * 1000)
        metrics = [Metric(f"objective_{name}", value, now, 0) for name, value in values.items()]
        tags = [
            RunTag(f"{TRIAL_TAG}.state", state),
            *([RunTag(f"{TRIAL_TAG}.reason", reason)] if reason else []),
        ]
        client = MlflowClient()
        client.log_batch(self.run_id, metrics, tags=tags)
        status = {"COMPLETE": RunStatus.FINISHED, "FAIL": RunStatus.FAILED}.get(state, RunStatus.KILLED)
        client.set_terminated(self.run_id, RunStatus.to_string(status))


@translated_errors()
def start_study_run(name: str, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> StudyRun:
    """Open the run of a study.

    Args:
        name: Of the study, its experiment and its family.
        tags: Without the prefix ``lineage.study.``.
        parameters: What varies and how, for the UI.
    """
    client = connect()
    all_tags = resolve_tags({STUDY_TAG: name} | {f"{STUDY_TAG}.{key}": value for key, value in tags.items()})
    run = client.create_run(ensure_experiment(name), tags=all_tags, run_name=f"study {name}")
    run_id = str(run.info.run_id)
    client.log_batch(run_id, params=_parameters(parameters))
    return StudyRun(run_id, name)


def resume_study_run(run_id: str, name: str) -> StudyRun | None:
    """Open a study's run again, or None where the store no longer has it."""
    client = connect()
    try:
        with translated_errors():
            if client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
                return None
            client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    except NotFoundError:
        return None
    return StudyRun(run_id, name)


def epoch_values(version: Version, metric: str) -> list[float]:
    """Values of a metric, epoch by epoch, of the run that trained ``version``; none where it is gone."""
    if not version.run_id:
        return []
    try:
        with translated_errors():
            history = MlflowClient().get_metric_history(version.run_id, metric)
    except NotFoundError:
        return []
    by_epoch = {point.step: point.value for point in history}
    return [by_epoch[step] for step in sorted(by_epoch)]


@translated_errors()
def point_to_winner(version: Version, alias: str) -> None:
    """Point the alias of a study's winner to it, and log the move."""
    held = [entity for entity in model_versions(version.name) if alias in entity.aliases]
    previous = int(held[0].version) if held else None
    if previous != version.version:
        point(connect(), alias, version)
        record(version.name, Event(ALIAS, version.version, alias, previous))


def winner_note(trials: str, winner: Version | None, alias: str) -> str:
    """Markdown for a study's run: how far it is, and a link to the winner."""
    if winner is None:
        return trials
    return f"{trials}\n\nThe winner is {version_link(winner.id)}, `models:/{winner.name}@{alias}`."


def _parameters(values: Mapping[str, Any]) -> list[Param]:
    return [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in values.items()]
