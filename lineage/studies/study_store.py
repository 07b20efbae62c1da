"""A study in its database: begun or found again, its trials given out and retried; rank 0 alone opens it."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from lineage.errors import IntegrityError
from lineage.recipe import Recipe, StudySettings, own_values, present_name
from lineage.registry.family.family import Version
from lineage.studies.database import safe_url, translated_errors
from lineage.studies.leases import StudyLeases
from lineage.studies.lookup import RECIPE, SETTINGS
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.running_trial import FAILED, INTERRUPTED, RunningTrial
from lineage.studies.samplers import make_pruner, make_sampler
from lineage.studies.settings import differences, kept_settings
from lineage.studies.space import distributions, grid

DEFAULT_TRIALS = 20
RUN_ID = "lineage.run_id"
NUM_KILLS = "lineage.kills"

_OWNER = "lineage.owner"
_ASKING = "asking for a trial"
_SECONDS_BETWEEN_LOOKS = 0.2


class NoTrial(Enum):
    """Reason why a worker that asks for a trial gets none."""

    WAIT = "others are at work, and may leave something"
    DONE = "all trials have ended"


def num_trials(settings: StudySettings) -> int:
    """Return how many trials a study has: the number of its settings, at most the whole grid."""
    points = grid(settings)
    if not points:
        return settings.trials or DEFAULT_TRIALS
    size = math.prod(map(len, points.values()))
    return min(settings.trials or size, size)


class StudyStore:
    """One study in its database.

    Args:
        storage: Database of the study.
        recipe: Resolved recipe with its space; the family's name is the study's.
        data_digest: Digest of the images.
        teacher: Version that teaches all trials; None where each has a patriarch.
        on_lost_trial: Callback for each trial that is found to have lost its worker.

    Raises:
        IntegrityError: If the database holds a study of that name with other settings.
    """

    def __init__(
        self,
        storage: RDBStorage,
        recipe: Recipe,
        data_digest: str,
        teacher: Version | None = None,
        on_lost_trial: Callable[[FrozenTrial], None] = lambda _: None,
    ) -> None:
        self.storage = storage
        self.recipe = recipe
        self.settings = recipe.study
        self.name = recipe.model.name
        self.leases = StudyLeases(storage, self.name, self.settings.grace)
        self.on_lost_trial = on_lost_trial
        self._lost: set[int] = set()
        self._kept = kept_settings(recipe, data_digest, teacher)
        with self._alone(), translated_errors(storage.url):
            self.study = self._open()
            if self.study.user_attrs.get(RECIPE) != recipe.to_json():
                self.study.set_user_attr(RECIPE, recipe.to_json())
            # A study that was begun under earlier names of recipe keys goes on under them in Optuna.
            names = {present_name(name): name for name in self.study.user_attrs[SETTINGS]["space"]}
        self._distributions = {names[key]: found for key, found in distributions(self.settings).items()}
        self._grid = {names[key]: values for key, values in grid(self.settings).items()}

    def _open(self) -> optuna.Study:
        """Open the study, and begin it if it is not there, with the recipe's own values as trial 0."""
        names = [found.study_name for found in self.storage.get_all_studies()]
        study = optuna.create_study(
            storage=self.storage,
            study_name=self.name,
            load_if_exists=True,
            pruner=make_pruner(self.settings),
            directions=[OBJECTIVES[name].direction for name in self.settings.objective],
        )
        if self.name in names or SETTINGS in study.user_attrs:
            self._check_settings(study.user_attrs.get(SETTINGS))
            return study
        study.set_user_attr(SETTINGS, self._kept)
        own = None if self.settings.sampler == "grid" else own_values(self.recipe)
        if own is not None:
            study.enqueue_trial(own)
        return study

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from beginning the study, or its run, at the same time."""
        while not self.leases.claim(_ASKING):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        try:
            yield
        finally:
            self.leases.release(_ASKING)

    def ensure_run(self, open_run: Callable[[str | None], str]) -> None:
        """Store the id of the study's MLflow run, of which there is one.

        Args:
            open_run: Function that opens the run with the stored id again, or a new one, and returns its id.

        Raises:
            RegistryError: If the database or the registry does not answer.
        """
        with self._alone(), translated_errors(self.storage.url):
            stored = self.study.user_attrs.get(RUN_ID)
            run_id = open_run(stored)
            if run_id != stored:
                self.study.set_user_attr(RUN_ID, run_id)

    def _check_settings(self, stored: dict[str, Any] | None) -> None:
        """Refuse to continue a study with other settings than its first ones.

        Raises:
            IntegrityError: If they differ, or the study is not one of ``lineage``.
        """
        if stored is None:
            raise IntegrityError(
                f"The study '{self.name}' in {safe_url(self.storage.url)} must be one that lineage began, but"
                " another program did; give another --name."
            )
        changes = differences(stored, self._kept)
        if changes:
            raise IntegrityError(
                f"The study '{self.name}' must go on as it was begun, but {'; '.join(changes)}. Give it those"
                " settings again, or begin another one with --name."
            )

    def take(self) -> RunningTrial | NoTrial:
        """Give out a trial: one to be retried, one that waits, or a new one while more are wanted.

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
        """Return whether no trial is left to grow, and none is being grown.

        Raises:
            RegistryError: If the database does not answer.
        """
        with translated_errors(self.storage.url):
            trials = self.study.get_trials(deepcopy=False)
        return self._has_enough(trials) and not any(
            trial.state == TrialState.RUNNING or self._is_to_be_retried(trial, trials) for trial in trials
        )

    def _take(self) -> RunningTrial | NoTrial:
        self._fail_lost_trials()
        self._retry_what_was_cut_short()
        trials = self.study.get_trials(deepcopy=False)
        if self._has_enough(trials):
            is_running = any(trial.state == TrialState.RUNNING for trial in trials)
            return NoTrial.WAIT if is_running else NoTrial.DONE
        return self._ask(len(trials))

    def _has_enough(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether as many trials as wanted have started, and none waits to be retried."""
        started = [trial for trial in trials if trial.state != TrialState.WAITING and not is_retry(trial)]
        waits = any(trial.state == TrialState.WAITING and is_retry(trial) for trial in trials)
        return not waits and len(started) >= num_trials(self.settings)

    def _ask(self, number: int) -> RunningTrial:
        self.study.sampler = make_sampler(self.settings, self._grid, number)
        self.leases.claim(self.leases.owner)  # shows that the trial's worker is alive
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some samplers are experimental
            trial = self.study.ask(self._distributions)
        trial.set_user_attr(_OWNER, self.leases.owner)
        return RunningTrial(trial, self.storage)

    def _fail_lost_trials(self) -> None:
        """Fail each running trial whose worker is dead.

        Optuna's own heartbeat is not used: it compares times of the session's zone, which jump with daylight
        saving time.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # A trial without an owner lost its worker in asking, which this process alone does now.
            owner = trial.user_attrs.get(_OWNER, "")
            if owner == self.leases.owner or not self.leases.claim(owner):
                continue
            with contextlib.suppress(UpdateFinishedTrialError):  # it ended at this moment
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            self.leases.release(owner)

    def _retry_what_was_cut_short(self) -> None:
        """Queue each trial again that failed because its worker died or was interrupted."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.FAIL and FAILED not in trial.user_attrs:
                if self._is_to_be_retried(trial, trials):
                    self._retry(trial)
                if trial.number not in self._lost:
                    self._lost.add(trial.number)
                    self.on_lost_trial(trial)

    def _is_to_be_retried(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether the trial was cut short, not too often, and is not queued again."""
        return (
            trial.state == TrialState.FAIL
            and FAILED not in trial.user_attrs
            and _num_kills(trial) <= self.settings.retries
            and not any(trial.number in other.system_attrs.get("retry_history", ()) for other in trials)
        )

    def _retry(self, trial: FrozenTrial) -> None:
        """Queue the trial with what it reported, as Optuna's ``RetryHeartbeatStaleTrialCallback`` does."""
        history = [*trial.system_attrs.get("retry_history", ()), trial.number]
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={NUM_KILLS: _num_kills(trial)},
                system_attrs={"failed_trial": trial.number} | trial.system_attrs | {"retry_history": history},
                intermediate_values=trial.intermediate_values,
            )
        )


def is_retry(trial: FrozenTrial) -> bool:
    """Return whether the trial repeats another one that was cut short."""
    return bool(trial.system_attrs.get("retry_history"))


def _num_kills(trial: FrozenTrial) -> int:
    """Return how many workers died of the trial, if it failed; interruptions by people do not count."""
    kills: int = trial.user_attrs.get(NUM_KILLS, 0)
    return kills + (INTERRUPTED not in trial.user_attrs)
