"""Worker of a study: take a trial, grow it, record how it ended, until no trial is left."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from lineage.display.study_progress import StudyReporter
from lineage.errors import TrainingError, UsageError
from lineage.evaluation.data import SplitData
from lineage.formats import quantity
from lineage.growing.leases import Leases
from lineage.growing.teacher import FirstTeacher, version_of
from lineage.recipe import Recipe
from lineage.registry.family.family import Version
from lineage.studies.database import only_process
from lineage.studies.objectives import OBJECTIVES
from lineage.studies.results import StudyResult
from lineage.studies.session import StudySession, open_session
from lineage.studies.space import shown
from lineage.studies.study_store import NoTrial
from lineage.studies.trial_record import NoRecord, TrialRecord
from lineage.studies.trials import grow_trial
from lineage.training.handlers import AbandonedError
from lineage.training.turns import on_main_process

_SECONDS_BETWEEN_LOOKS = 0.5


class Worker:
    """Grows trials of one study; a worker of several ranks grows the same trial on all of them.

    Rank 0 alone opens the study, takes trials and records them; other ranks keep ``NoRecord``.

    Args:
        recipe: Recipe of the study with its space; its family's name is the study's.
        url: URL of the study's database.
        split_data: Data of the study.
        reporter: Reporter of the study's progress, on rank 0.
        teacher: Teacher of all trials; None where each has a patriarch.
    """

    _session: StudySession  # on rank 0
    _taken: TrialRecord  # on rank 0: the trial that was taken last

    def __init__(
        self,
        recipe: Recipe,
        url: str,
        split_data: SplitData,
        reporter: StudyReporter,
        teacher: FirstTeacher | None = None,
    ) -> None:
        self.recipe = recipe
        self.url = url
        self.split_data = split_data
        self.reporter = reporter
        self.teacher = teacher
        self._leases = Leases(recipe.study.heartbeat, recipe.study.grace)
        self._record = NoRecord()

    def run(self) -> StudyResult:
        """Work until all trials have ended, those of other workers as well; all ranks must call it.

        Returns:
            Result of the study.

        Raises:
            IntegrityError: If the study was begun with other settings, or another process works on it in an
                sqlite file.
            RegistryError: If the registry or the study's database does not answer.
        """
        with contextlib.ExitStack() as stack:
            on_main_process(lambda: self._open(stack))
            try:
                while (taken := on_main_process(self._take)) is not NoTrial.DONE:
                    if isinstance(taken, NoTrial):
                        time.sleep(_SECONDS_BETWEEN_LOOKS)
                    else:
                        self._grow(taken)
            except BaseException:
                self._record.cut_short()
                raise
            return on_main_process(lambda: self._session.finish())

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Open the study until ``stack`` is closed."""
        stack.enter_context(only_process(self.url, self.recipe.model.name))
        digest = self.split_data.dataset.spec.digest
        session = open_session(self.recipe, self.url, digest, version_of(self.teacher))
        self._session = stack.enter_context(session)

    def _take(self) -> Mapping[str, Any] | NoTrial:
        """Take a trial, and return the values that it tries."""
        taken = self._session.take()
        if isinstance(taken, NoTrial):
            return taken
        self._record = self._taken = taken
        self.reporter.begin(taken.trial.number, shown(taken.trial.values))
        return taken.trial.values

    def _grow(self, values: Mapping[str, Any]) -> None:
        """Grow one trial and record how it ended."""
        try:
            versions = grow_trial(
                self.recipe,
                self.split_data,
                values,
                self._record,
                self._leases,
                self.reporter,
                self.teacher,
            )
        except AbandonedError as error:
            reason = str(error)
            on_main_process(lambda: self._end(TrialState.PRUNED, reason=reason))
        except (UsageError, TrainingError) as error:  # due to these values; other trials may do better
            reason = str(error)
            on_main_process(lambda: self._end(TrialState.FAIL, reason=reason))
        else:
            on_main_process(lambda: self._end(TrialState.COMPLETE, versions))

    def _end(self, state: TrialState, versions: Sequence[Version] = (), reason: str = "") -> None:
        """Record how the trial ended, report it, and bring the study's run up to date."""
        names = self.recipe.study.objective
        objectives = {str(name): OBJECTIVES[name].value(versions) for name in names} if versions else {}
        is_ours = self._taken.end(state, objectives, reason)
        self._record = NoRecord()
        if not is_ours:
            self.reporter.end("was taken over by another worker, which had not heard from this one")
            return
        self.reporter.end(f"{state.name.lower()}, {reason}" if reason else _with_units(objectives))
        self._session.update()


def _with_units(objectives: Mapping[str, float]) -> str:
    """Return the objectives' values in their units, such as ``accuracy 97.22 %``."""
    return ", ".join(
        f"{name} {quantity(OBJECTIVES[name].metric, value)}" for name, value in objectives.items()
    )
