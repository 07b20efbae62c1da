"""Record of the trial that a worker grows, in the study's database and in the trial's MLflow run."""

import contextlib
from collections.abc import Sequence

from optuna.trial import TrialState

from lineage.errors import LineageError
from lineage.registry.family.family import Version
from lineage.registry.store.study_runs import TrialRun
from lineage.studies.running_trial import FAILED, RunningTrial

GENERATIONS = "lineage.generations"
TRAINED = "lineage.trained"


class NoRecord:
    """Record of nothing: on ranks other than 0, and between two trials."""

    def report(self, metric: str, value: float, step: int) -> None:
        """Do nothing."""

    def is_hopeless(self, first_step: int) -> bool:
        """Return False."""
        return False

    def add_generation(self, versions: Sequence[Version], trained: Sequence[Version]) -> None:
        """Do nothing."""

    def cut_short(self) -> None:
        """Do nothing."""


class TrialRecord(NoRecord):
    """Record of one trial, which rank 0 writes.

    Every method raises a ``RegistryError`` if the database or the registry does not answer.

    Args:
        trial: The trial in the study's database.
        run: The trial's MLflow run.
    """

    def __init__(self, trial: RunningTrial, run: TrialRun) -> None:
        self.trial = trial
        self.run = run

    def report(self, metric: str, value: float, step: int) -> None:
        """Record the value of a metric at a step by which trials are compared, unless the step is known."""
        if self.trial.report(value, step):
            self.run.log_step(metric, value, step)

    def is_hopeless(self, first_step: int) -> bool:
        """Return whether the study's pruner gives the trial up, shown the steps from ``first_step`` on."""
        return self.trial.is_hopeless(first_step)

    def add_generation(self, versions: Sequence[Version], trained: Sequence[Version]) -> None:
        """Record a generation at once, so that it counts even if the worker is killed.

        Args:
            versions: All generations of the trial so far; the last one is new.
            trained: The generations among them that were trained for the trial.
        """
        self.trial.note(GENERATIONS, [version.id for version in versions])
        self.trial.note(TRAINED, [version.id for version in trained])
        self.run.add_generation(versions[-1], versions[-1] in trained)

    def end(self, state: TrialState, objectives: dict[str, float], reason: str) -> bool:
        """End the trial.

        Args:
            state: COMPLETE, PRUNED or FAIL.
            objectives: Values by name, of a complete trial.
            reason: Why the trial is not complete.

        Returns:
            Whether it was still this worker's: another one may have taken it for dead and ended it.
        """
        if state == TrialState.FAIL:
            self.trial.note(FAILED, reason)
        is_ours = self.trial.tell(state, list(objectives.values()) or None)
        if is_ours:
            self.run.close(state.name, objectives, reason)
        else:
            self.run.close("KILLED", {}, "another worker took the trial over")
        return is_ours

    def cut_short(self) -> None:
        """End the trial as interrupted, so that it is tried again; suppress errors, since one led here."""
        with contextlib.suppress(LineageError):
            self.trial.interrupt()
        with contextlib.suppress(LineageError):
            self.run.close("KILLED", {}, "interrupted")
