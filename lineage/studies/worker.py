"""What each worker of a study does: take a trial, grow it, tell how it ended, until there is none left."""

import contextlib
import time
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from lineage.errors import LineageError, NotFoundError, TrainingError, UsageError
from lineage.formats import quantity
from lineage.growing.cache_key import SplitData
from lineage.recipe import Recipe
from lineage.registry.family.aliases import point_alias
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.store.study_runs import StudyRun, TrialRun, winner_note
from lineage.report.study_progress import StudyReporter
from lineage.studies.leases import Heartbeat
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.results import StudyResult, read_result
from lineage.studies.running_trial import RunningTrial
from lineage.studies.space import shown
from lineage.studies.study_store import FAILED, INTERRUPTED, RUN_ID, Assignment, NoTrial, StudyStore
from lineage.studies.trials import grow_trial
from lineage.training.devices import on_main_process
from lineage.training.handlers import AbandonedError

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class StudyDesk:
    """What rank 0 has beside the others: the study's book, its run, and signs of life."""

    book: StudyStore
    run: StudyRun
    pulse: Heartbeat


class Worker:
    """Grows trials of one study; on several ranks, all grow the same trial.

    Args:
        recipe: Of the study, with its space; its family's name is the study's.
        split_data: Its data.
        desk: On rank 0; None on others.
        reporter: Is told what happens, on rank 0.
    """

    def __init__(
        self, recipe: Recipe, split_data: SplitData, desk: StudyDesk | None, reporter: StudyReporter
    ) -> None:
        self.recipe = recipe
        self.split_data = split_data
        self.desk = desk
        self.reporter = reporter
        self._trial_run: TrialRun | None = None
        self._has_trial = False

    def run(self) -> None:
        """Work until all trials have ended, those of other workers as well.

        Raises:
            RegistryError: If the registry or the study's database does not answer.
        """
        try:
            while (given := on_main_process(self._take)) is not NoTrial.DONE:
                if isinstance(given, Assignment):
                    self._grow(given)
                else:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
        except BaseException:
            if self._has_trial:
                self._cut_short()
            raise

    def _take(self) -> Assignment | NoTrial:
        """A trial from the book, with a run of its own."""
        desk = self._at_desk()
        given = desk.book.take()
        if isinstance(given, Assignment):
            attempt, self._trial_run, self._has_trial = self._attempt(), None, True
            desk.pulse.trial_id = attempt.trial_id
            self._trial_run = desk.run.start_trial(given.number, given.values)
            attempt.note(RUN_ID, self._trial_run.run_id)
            self.reporter.begin(given.number, shown(given.values))
        return given

    def _grow(self, given: Assignment) -> None:
        """Grow one trial and tell how it ended."""
        try:
            versions = grow_trial(
                self.recipe,
                self.split_data,
                given,
                leases=self.desk.book.leases if self.desk else None,
                attempt=self._attempt() if self.desk else None,
                run=self._trial_run,
                reporter=self.reporter,
            )
        except AbandonedError as error:
            reason = str(error)
            on_main_process(lambda: self._end(TrialState.PRUNED, reason=reason))
        except (UsageError, TrainingError) as error:  # of this trial's values; others may do better
            reason = str(error)
            on_main_process(lambda: self._end(TrialState.FAIL, reason=reason))
        else:
            on_main_process(lambda: self._end(TrialState.COMPLETE, versions))

    def _end(self, state: TrialState, versions: list[Version] | None = None, reason: str = "") -> None:
        """Tell the study, the trial's run and whoever watches."""
        desk, attempt, run = self._at_desk(), self._attempt(), self._trial_run
        assert run is not None
        values = (
            [OBJECTIVES[name].value(versions) for name in self.recipe.study.objective] if versions else []
        )
        if state == TrialState.FAIL:
            attempt.note(FAILED, reason)
        desk.pulse.trial_id = None
        is_ours, self._has_trial = attempt.tell(state, values or None), False
        if not is_ours:
            run.close("KILLED", {}, "another worker took the trial over")
            self.reporter.end("was taken over by another worker, which had not heard from this one")
            return
        by_name: dict[str, float] = dict(zip(self.recipe.study.objective, values, strict=False))
        run.close(state.name, by_name, reason)
        self.reporter.end(f"{state.name.lower()}, {reason}" if reason else _told(by_name))
        update_study(desk.book, desk.run)

    def _cut_short(self) -> None:
        """Mark what is interrupted, or failed for no fault of the trial's, so that it is tried again."""
        self._at_desk().pulse.trial_id = None
        with contextlib.suppress(LineageError):  # the first error is the one to tell
            self._attempt().note(INTERRUPTED, True)
            self._attempt().tell(TrialState.FAIL)
        with contextlib.suppress(LineageError):
            if self._trial_run is not None:
                self._trial_run.close("KILLED", {}, "interrupted")

    def _attempt(self) -> RunningTrial:
        attempt = self._at_desk().book.attempt
        assert attempt is not None
        return attempt

    def _at_desk(self) -> StudyDesk:
        assert self.desk is not None
        return self.desk


def close_lost_run(trial: FrozenTrial) -> None:
    """Close the MLflow run of a trial that lost its worker."""
    run_id = trial.user_attrs.get(RUN_ID)
    if run_id is not None and INTERRUPTED not in trial.user_attrs:
        TrialRun(run_id).close("KILLED", {}, "its worker died")


def update_study(book: StudyStore, run: StudyRun) -> None:
    """Bring the winner's alias and the study's run up to date."""
    result = read_result(book.study)
    winner = _find_winner(result)
    if winner is not None:
        point_alias(winner, result.alias)
    metrics = {
        "trials_complete": float(result.count("COMPLETE")),
        "trials_pruned": float(result.count("PRUNED")),
        "trainings": float(result.num_trained),
        "trainings_saved": float(result.num_saved),
    } | {f"best_{name}": value for best in result.best[:1] for name, value in best.objectives.items()}
    text = f"{len(result.trials)} trials, {result.num_saved} trainings saved."
    run.update(metrics, winner_note(text, winner, result.alias))


def _find_winner(result: StudyResult) -> Version | None:
    """The winner, unless there is none or somebody removed it."""
    try:
        return find_version(result.winner) if result.winner else None
    except NotFoundError:
        return None


def _told(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {quantity(OBJECTIVES[name].metric, value)}" for name, value in values.items())
