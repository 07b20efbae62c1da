"""The trial that a worker has in hand, in the study's database. Rank 0 alone has one."""

import contextlib
import copy
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from lineage.studies.database import translated_errors


class RunningTrial:
    """One trial, from its beginning to its end.

    Another worker may hold us for dead and end it; we learn that when we end it ourselves. What was trained
    until then is registered, and found by whoever tries again.

    Every method raises a ``RegistryError`` if the database does not answer.

    Args:
        trial: Optuna's.
        storage: Where it stands.
    """

    def __init__(self, trial: Trial, storage: RDBStorage) -> None:
        self.trial = trial
        self.storage = storage

    @property
    def study(self) -> optuna.Study:
        """What it belongs to."""
        return self.trial.study

    @property
    def trial_id(self) -> int:
        """The database's number of the trial, by which its worker says that it lives."""
        return self.trial._trial_id

    def note(self, name: str, value: Any) -> None:
        """Keep something with the trial, while it is ours."""
        with translated_errors(self.storage.url), contextlib.suppress(UpdateFinishedTrialError):
            self.trial.set_user_attr(name, value)

    def report(self, value: float, step: int) -> bool:
        """Tell of a step, and whether it is new: a trial that is tried again has told of some already."""
        with translated_errors(self.storage.url):
            known = self._frozen()
            if known.state != TrialState.RUNNING or step in known.intermediate_values:
                return False
            self.trial.report(value, step)
            return True

    def is_hopeless(self, first_step: int) -> bool:
        """What the study's pruner says of the steps from ``first_step`` on."""
        if isinstance(self.study.pruner, NopPruner):
            return False
        with translated_errors(self.storage.url):
            seen = copy.copy(self._frozen())
            seen.intermediate_values = {
                step: value for step, value in seen.intermediate_values.items() if step >= first_step
            }
            return bool(seen.intermediate_values) and self.study.pruner.prune(self.study, seen)

    def tell(self, state: TrialState, values: list[float] | None = None) -> bool:
        """End the trial.

        Returns:
            Whether it was still ours: another worker may have held us for dead.
        """
        with translated_errors(self.storage.url):
            if self._frozen().state != TrialState.RUNNING:
                return False
            self.study.tell(self.trial, values, state)
            return True

    def _frozen(self) -> FrozenTrial:
        return self.storage.get_trial(self.trial_id)
