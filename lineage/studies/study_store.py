"""A study in its database: begun or found again, its trials given out and closed. Rank 0 alone reads it."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from lineage.errors import IntegrityError, NotFoundError, suggestion
from lineage.recipe import Recipe, StudySettings, own_values
from lineage.studies.database import safe_url, translated_errors
from lineage.studies.leases import StudyLeases
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.running_trial import RunningTrial
from lineage.studies.samplers import make_pruner, make_sampler
from lineage.studies.settings import differences, kept_settings
from lineage.studies.space import distributions, grid

DEFAULT_TRIALS = 20
RUN_ID = "lineage.run_id"
FAILED = "lineage.failed"  # why a trial failed by itself; without it, it was cut short and is tried again
KILLS = "lineage.kills"
INTERRUPTED = "lineage.interrupted"

_OWNER = "lineage.owner"
_SETTINGS = "lineage.settings"
_ASKING = "asking for a trial"
_SECONDS_BETWEEN_LOOKS = 0.2


class NoTrial(Enum):
    """What a worker gets when no trial is given to it."""

    WAIT = "others are at work, and may leave something"
    DONE = "all trials have ended"


@dataclass(frozen=True)
class Assignment:
    """A trial to grow.

    Attributes:
        number: Of the trial.
        values: By recipe key.
    """

    number: int
    values: Mapping[str, Any]


def num_trials(settings: StudySettings) -> int:
    """How many trials a study has: those of its settings, at most the whole grid."""
    size = 1
    for values in (points := grid(settings)).values():
        size *= len(values)
    if not points:
        return settings.trials or DEFAULT_TRIALS
    return min(settings.trials or size, size)


class StudyStore:
    """One study.

    Args:
        storage: Where it is.
        recipe: Resolved, with its space; the family's name is the study's.
        data_digest: Of the images.
        on_cut_short: Is told of each trial that is found to have lost its worker.

    Attributes:
        attempt: The trial that was taken last.

    Raises:
        IntegrityError: If the database holds a study of that name with other settings.
    """

    def __init__(
        self,
        storage: RDBStorage,
        recipe: Recipe,
        data_digest: str,
        on_cut_short: Callable[[FrozenTrial], None] = lambda _: None,
    ) -> None:
        self.storage = storage
        self.recipe = recipe
        self.settings = recipe.study
        self.name = recipe.model.name
        self.leases = StudyLeases(storage, self.name, self.settings.grace)
        self.on_cut_short = on_cut_short
        self.attempt: RunningTrial | None = None
        self._cut_short: set[int] = set()
        self._distributions = distributions(self.settings)
        self._grid = grid(self.settings)
        self._kept = kept_settings(recipe, data_digest)
        with self._alone(), translated_errors(storage.url):
            self.study = self._open()

    def _open(self) -> optuna.Study:
        """The study, begun where it is not there yet, with the recipe's own values as trial 0."""
        names = [found.study_name for found in self.storage.get_all_studies()]
        study = optuna.create_study(
            storage=self.storage,
            study_name=self.name,
            load_if_exists=True,
            pruner=make_pruner(self.settings),
            directions=[OBJECTIVES[name].direction for name in self.settings.objective],
        )
        if self.name in names or _SETTINGS in study.user_attrs:
            self._compare(study.user_attrs.get(_SETTINGS))
            return study
        study.set_user_attr(_SETTINGS, self._kept)
        own = None if self._grid else own_values(self.recipe)
        if own is not None:
            study.enqueue_trial(own)
        return study

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from beginning the study, or its run, at the same time."""
        while not self.leases.claim(_ASKING):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        try:
            yield
        finally:
            self.leases.release(_ASKING)

    def ensure_run(self, open_run: Callable[[str | None], str]) -> None:
        """Note the study's MLflow run, once.

        Args:
            open_run: Opens the run again whose id was noted, or a new one; gives its id.

        Raises:
            RegistryError: If the database or the registry does not answer.
        """
        with self._alone(), translated_errors(self.storage.url):
            noted = self.study.user_attrs.get(RUN_ID)
            run_id = open_run(noted)
            if run_id != noted:
                self.study.set_user_attr(RUN_ID, run_id)

    def _compare(self, begun: dict[str, Any] | None) -> None:
        """Refuse to continue a study with other settings than it was begun with."""
        if begun is None:
            raise IntegrityError(
                f"The study '{self.name}' in {safe_url(self.storage.url)} must be one that lineage began, but"
                " is another's; take another --name."
            )
        changes = differences(begun, self._kept)
        if changes:
            raise IntegrityError(
                f"The study '{self.name}' must go on as it was begun, but {'; '.join(changes)}. Give it those"
                " settings again, or begin another one with --name."
            )

    def take(self) -> Assignment | NoTrial:
        """A trial to grow: one that was left, one that waits, or a new one while there are to be more.

        Raises:
            RegistryError: If the database does not answer.
        """
        with translated_errors(self.storage.url):
            if not self.leases.claim(_ASKING):
                return NoTrial.WAIT
            try:
                return self._take()
            finally:
                self.leases.release(_ASKING)

    def has_ended(self) -> bool:
        """Whether no trial is left to grow, and none is being grown.

        Raises:
            RegistryError: If the database does not answer.
        """
        with translated_errors(self.storage.url):
            trials = self.study.get_trials(deepcopy=False)
        return self._has_enough(trials) and not any(
            trial.state == TrialState.RUNNING or self._is_to_be_retried(trial, trials) for trial in trials
        )

    def _take(self) -> Assignment | NoTrial:
        self._retry_what_was_cut_short()
        trials = self.study.get_trials(deepcopy=False)
        if self._has_enough(trials):
            is_running = any(trial.state == TrialState.RUNNING for trial in trials)
            return NoTrial.WAIT if is_running else NoTrial.DONE
        return self._ask(len(trials))

    def _has_enough(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether as many trials were begun as there are to be, and none waits to be tried again."""
        begun = [trial for trial in trials if trial.state != TrialState.WAITING and not is_retry(trial)]
        waits = any(trial.state == TrialState.WAITING and is_retry(trial) for trial in trials)
        return not waits and len(begun) >= num_trials(self.settings)

    def _ask(self, number: int) -> Assignment:
        self.study.sampler = make_sampler(self.settings, self._grid, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are ours, and samplers tell of what is experimental
            trial = self.study.ask(self._distributions)
        self.attempt = RunningTrial(trial, self.storage)
        self.storage.record_heartbeat(self.attempt.trial_id)
        trial.set_user_attr(_OWNER, self.leases.owner)
        return Assignment(trial.number, dict(trial.params))

    def _retry_what_was_cut_short(self) -> None:
        """Queue each trial again that failed because its worker died or was interrupted."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _OWNER not in trial.user_attrs:  # its worker died in asking for it, which we now do alone
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.FAIL and FAILED not in trial.user_attrs:
                if self._is_to_be_retried(trial, trials):
                    self._retry(trial)
                if trial.number not in self._cut_short:
                    self._cut_short.add(trial.number)
                    self.on_cut_short(trial)

    def _is_to_be_retried(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the trial was cut short, not too often, and nobody has queued it again."""
        return (
            trial.state == TrialState.FAIL
            and FAILED not in trial.user_attrs
            and _num_kills(trial) <= self.settings.retries
            and not any(trial.number in other.system_attrs.get("retry_history", ()) for other in trials)
        )

    def _retry(self, trial: FrozenTrial) -> None:
        """Queue the trial, with what it reported, as Optuna's ``RetryHeartbeatStaleTrialCallback`` does."""
        history = [*trial.system_attrs.get("retry_history", ()), trial.number]
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={KILLS: _num_kills(trial)},
                system_attrs={"failed_trial": trial.number} | trial.system_attrs | {"retry_history": history},
                intermediate_values=trial.intermediate_values,
            )
        )

    def bury_others(self) -> None:
        """Cut short what other processes left, where we know that none lives."""
        with translated_errors(self.storage.url):
            self.leases.bury_others()
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def is_retry(trial: FrozenTrial) -> bool:
    """Whether the trial tries another one again that was cut short."""
    return bool(trial.system_attrs.get("retry_history"))


def _num_kills(trial: FrozenTrial) -> int:
    """How many workers died of the trial, if they did; interruptions by people do not count."""
    kills: int = trial.user_attrs.get(KILLS, 0)
    return kills + (INTERRUPTED not in trial.user_attrs)


def load_study(storage: RDBStorage, name: str) -> optuna.Study:
    """A study that lineage began.

    Raises:
        NotFoundError: If the database holds none of that name.
        RegistryError: If it does not answer.
    """
    with translated_errors(storage.url):
        names = [found.study_name for found in storage.get_all_studies()]
        if name in names:
            study = optuna.load_study(study_name=name, storage=storage)
            if _SETTINGS in study.user_attrs:
                return study
    raise NotFoundError(
        f"The database {safe_url(storage.url)} holds no study '{name}' of lineage.{suggestion(name, names)}"
        " Name another database with --storage."
    )


def objective_names(study: optuna.Study) -> list[str]:
    """What a study that lineage began optimises, by the names of a recipe."""
    return list(study.user_attrs[_SETTINGS]["objective"])
