"""Runs of studies in MLflow: one for a study, one nested under it for each trial.

A trial's run points to its generations by tags and model inputs; their own runs stay where they belong, under
those of their teachers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, LoggedModelInput, RunStatus, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from lineage.errors import NotFoundError
from lineage.registry.family.cards import version_link
from lineage.registry.family.family import Version
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.runs import metrics_now, open_run

STUDY_TAG = TAG + "study"
TRIAL_TAG = TAG + "trial"

_LONGEST_VALUE = 500  # of a parameter, in older stores
_REPORT = "report"
_STATUS = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}  # of a run by the state of its trial; else KILLED


@dataclass(frozen=True)
class StudyRun:
    """The run of a study; those of its trials are nested under it.

    Attributes:
        run_id: MLflow's id of the run.
        name: Name of the study, of its experiment and of its family.
    """

    run_id: str
    name: str

    @translated_errors()
    def start_trial(self, number: int, values: Mapping[str, Any]) -> "TrialRun":
        """Open a run for one trial.

        Args:
            number: Number of the trial.
            values: Values of the keys that vary.
        """
        tags = {STUDY_TAG: self.name, TRIAL_TAG: str(number), MLFLOW_PARENT_RUN_ID: self.run_id}
        return TrialRun(open_run(ensure_experiment(self.name), f"trial {number}", tags, _shortened(values)))

    @translated_errors()
    def update(self, metrics: Mapping[str, float], note: str) -> None:
        """Log the progress of the study as metrics and as the run's note."""
        MlflowClient().log_batch(self.run_id, metrics_now(metrics), tags=[RunTag(MLFLOW_RUN_NOTE, note)])

    @translated_errors()
    def stop(self, status: str) -> None:
        """Close the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        MlflowClient().set_terminated(self.run_id, status)

    @translated_errors()
    def log_report(self, files: Sequence[Path]) -> None:
        """Log files as artifacts of the run, in the folder ``report``.

        Raises:
            NotFoundError: If the store no longer holds the run, or it was deleted.
        """
        if MlflowClient().get_run(self.run_id).info.lifecycle_stage == LifecycleStage.DELETED:
            raise NotFoundError(
                f"Run {self.run_id} must be active to take a report, but was deleted; restore it in MLflow."
            )
        for file in files:
            MlflowClient().log_artifact(self.run_id, str(file), _REPORT)


@dataclass(frozen=True)
class TrialRun:
    """The run of one trial.

    Attributes:
        run_id: MLflow's id of the run.
    """

    run_id: str

    @translated_errors()
    def add_generation(self, version: Version, was_trained: bool) -> None:
        """Link a generation of the trial, and record whether it was trained for it or pulled."""
        client = MlflowClient()
        tag = f"{TRIAL_TAG}.generation.{version.generation}"
        client.log_inputs(self.run_id, models=[LoggedModelInput(version.model_id)])
        client.log_batch(
            self.run_id,
            tags=[RunTag(tag, version.id), RunTag(f"{tag}.trained", str(was_trained).lower())],
        )

    @translated_errors()
    def log_step(self, metric: str, value: float, step: int) -> None:
        """Log a value that pruning compares with other trials at the same step."""
        MlflowClient().log_batch(self.run_id, metrics_now({metric: value}, step))

    @translated_errors()
    def close(self, state: str, values: Mapping[str, float], reason: str = "") -> None:
        """Close the run.

        Args:
            state: Final state of the trial in Optuna, COMPLETE, PRUNED or FAIL; or KILLED.
            values: Values of the objectives, by name.
            reason: Reason of a trial that did not complete.
        """
        metrics = metrics_now({f"objective_{name}": value for name, value in values.items()})
        tags = [
            RunTag(f"{TRIAL_TAG}.state", state),
            *([RunTag(f"{TRIAL_TAG}.reason", reason)] if reason else []),
        ]
        client = MlflowClient()
        client.log_batch(self.run_id, metrics, tags=tags)
        client.set_terminated(self.run_id, _STATUS.get(state, "KILLED"))


@translated_errors()
def start_study_run(name: str, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> StudyRun:
    """Open the run of a study.

    Args:
        name: Name of the study, of its experiment and of its family.
        tags: Tags without the prefix ``lineage.study.``.
        parameters: Search space and settings, for the UI.
    """
    connect()
    all_tags = {STUDY_TAG: name} | {f"{STUDY_TAG}.{key}": value for key, value in tags.items()}
    return StudyRun(
        open_run(ensure_experiment(name), f"study {name}", all_tags, _shortened(parameters)), name
    )


def resume_study_run(run_id: str, name: str) -> StudyRun | None:
    """Open a study's run again; None if the store no longer has it."""
    client = connect()
    try:
        with translated_errors():
            if client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
                return None
            client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    except NotFoundError:
        return None
    return StudyRun(run_id, name)


def epoch_values(version: Version, metric: str) -> dict[int, float]:
    """Return a metric by epoch, in order, from the run that trained ``version``; {} if the run is gone."""
    if not version.run_id:
        return {}
    try:
        with translated_errors():
            history = MlflowClient().get_metric_history(version.run_id, metric)
    except NotFoundError:
        return {}
    return dict(sorted((point.step, point.value) for point in history))


def winner_note(trials: str, winner: Version | None, alias: str) -> str:
    """Return the Markdown note of a study's run: its progress, and a link to the winner if there is one."""
    if winner is None:
        return trials
    return f"{trials}\n\nThe winner is {version_link(winner.id)}, `models:/{winner.name}@{alias}`."


def _shortened(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value)[:_LONGEST_VALUE] for key, value in values.items()}
