"""The trial that a worker grows, in the study's database; rank 0 alone has one."""

import contextlib
import copy
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from lineage.studies.database import translated_errors
from lineage.studies.space import with_present_names

FAILED = "lineage.failed"  # why a trial failed by itself; one without it was cut short and is tried again
INTERRUPTED = "lineage.interrupted"
SECONDS = "lineage.seconds"


class RunningTrial:
    """One trial from its start to its end.

    Another worker may take this one for dead and end its trial, which shows when this one ends it. What was
    trained until then is registered, and found by the worker that tries again.

    Every method raises a ``RegistryError`` if the database does not answer.

    Args:
        trial: The trial as Optuna gave it out.
        storage: Database of the trial's study.
    """

    def __init__(self, trial: Trial, storage: RDBStorage) -> None:
        self.trial = trial
        self.storage = storage
        self._started = time.monotonic()

    @property
    def number(self) -> int:
        """Optuna's number of the trial, which counts from 0 in its study."""
        return self.trial.number

    @property
    def values(self) -> Mapping[str, Any]:
        """Values that the trial tries, by recipe key."""
        return with_present_names(self.trial.params)

    @property
    def study(self) -> optuna.Study:
        """Study that the trial belongs to."""
        return self.trial.study

    def note(self, name: str, value: Any) -> None:
        """Store a value with the trial, unless another worker has ended it."""
        with translated_errors(self.storage.url), contextlib.suppress(UpdateFinishedTrialError):
            self.trial.set_user_attr(name, value)

    def report(self, value: float, step: int) -> bool:
        """Report the objective's value at a step to Optuna.

        Returns:
            Whether it is new: a trial that is tried again has reported some steps before.
        """
        with translated_errors(self.storage.url):
            known = self._frozen()
            if known.state != TrialState.RUNNING or step in known.intermediate_values:
                return False
            self.trial.report(value, step)
            return True

    def is_hopeless(self, first_step: int) -> bool:
        """Return whether the study's pruner gives the trial up, shown the steps from ``first_step`` on."""
        if isinstance(self.study.pruner, NopPruner):
            return False
        with translated_errors(self.storage.url):
            shown = copy.copy(self._frozen())
            shown.intermediate_values = {
                step: value for step, value in shown.intermediate_values.items() if step >= first_step
            }
            return bool(shown.intermediate_values) and self.study.pruner.prune(self.study, shown)

    def tell(self, state: TrialState, values: list[float] | None = None) -> bool:
        """End the trial, with its objectives' values if it is complete.

        Returns:
            Whether it was still this worker's: another one may have taken it for dead and ended it.
        """
        with translated_errors(self.storage.url):
            if self._frozen().state != TrialState.RUNNING:
                return False
            self.note(SECONDS, time.monotonic() - self._started)
            self.study.tell(self.trial, values, state)
            return True

    def interrupt(self) -> None:
        """End the trial as interrupted, so that it is tried again."""
        self.note(INTERRUPTED, True)
        self.tell(TrialState.FAIL)

    def _frozen(self) -> FrozenTrial:
        return self.storage.get_trial(self.trial._trial_id)
