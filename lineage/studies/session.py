"""A process's session with a study: in the study's database and in MLflow."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from lineage.errors import LineageError, NotFoundError
from lineage.recipe import Recipe
from lineage.registry.family.aliases import point_alias
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.store.study_runs import (
    StudyRun,
    TrialRun,
    resume_study_run,
    start_study_run,
    winner_note,
)
from lineage.studies.database import is_sqlite, open_storage, safe_url, translated_errors
from lineage.studies.leases import Heartbeat
from lineage.studies.results import StudyResult, read_result
from lineage.studies.running_trial import INTERRUPTED
from lineage.studies.space import describe_space
from lineage.studies.study_store import RUN_ID, NoTrial, StudyStore, num_trials
from lineage.studies.trial_record import TrialRecord


@dataclass(frozen=True)
class StudySession:
    """A study that this process has open; of several ranks, rank 0 alone has one.

    Attributes:
        store: The study in its database.
        run: The study's MLflow run.
    """

    store: StudyStore
    run: StudyRun

    def take(self) -> TrialRecord | NoTrial:
        """Take a trial to grow, and open its MLflow run.

        Raises:
            RegistryError: If the registry or the study's database does not answer.
        """
        trial = self.store.take()
        if isinstance(trial, NoTrial):
            return trial
        try:
            run = self.run.start_trial(trial.number, trial.values)
            trial.note(RUN_ID, run.run_id)
        except BaseException:
            with contextlib.suppress(LineageError):  # the first error is the one to raise
                trial.interrupt()
            raise
        return TrialRecord(trial, run)

    def update(self) -> StudyResult:
        """Bring the winner's alias and the study's run up to date.

        Returns:
            Result of the study so far.

        Raises:
            RegistryError: If the registry or the study's database does not answer.
        """
        with translated_errors(self.store.storage.url):
            result = read_result(self.store.study)
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
        self.run.update(metrics, winner_note(text, winner, result.alias))
        return result

    def finish(self) -> StudyResult:
        """Close the study's run after the last trial has ended.

        Returns:
            Result of the study.

        Raises:
            RegistryError: If the registry or the study's database does not answer.
        """
        result = self.update()
        self.run.stop("FINISHED")
        return result

    def leave(self) -> None:
        """Close the study's run before its end, unless other workers go on."""
        with contextlib.suppress(LineageError):  # the first error is the one to raise
            with translated_errors(self.store.storage.url):
                running = self.store.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if not running:
                self.run.stop("KILLED")


@contextlib.contextmanager
def open_session(
    recipe: Recipe, url: str, data_digest: str, teacher: Version | None = None
) -> Iterator[StudySession]:
    """Begin a study, or open it again, and refresh this process's leases while a ``with`` block lasts.

    Args:
        recipe: Resolved recipe with its space; the family's name is the study's.
        url: URL of the study's database.
        data_digest: Digest of the images.
        teacher: Version that teaches all trials; None where each has a patriarch.

    Raises:
        IntegrityError: If the study was begun with other settings, or another teacher.
        RegistryError: If the registry or the study's database does not answer.
    """
    storage = open_storage(url)
    store = StudyStore(storage, recipe, data_digest, teacher, _close_lost_run)
    if is_sqlite(url):  # which takes one process: others are dead
        store.leases.delete_others()
    runs: list[StudyRun] = []

    def _open_run(stored: str | None) -> str:
        run = resume_study_run(stored, store.name) if stored else None
        runs.append(run or _start_run(recipe, url, teacher))
        return runs[0].run_id

    store.ensure_run(_open_run)
    session = StudySession(store, runs[0])
    try:
        with Heartbeat(store.leases, recipe.study.heartbeat):
            yield session
    except BaseException:
        session.leave()
        raise
    finally:
        store.leases.release_all()
        storage.remove_session()


def _start_run(recipe: Recipe, url: str, teacher: Version | None) -> StudyRun:
    settings = recipe.study
    tags = {
        "storage": safe_url(url),
        "objective": ",".join(settings.objective),
        "space": json.dumps(describe_space(settings)),
        "recipe_digest": recipe.digest,
    } | ({} if teacher is None else {"teacher": teacher.id})
    parameters = {
        "sampler": settings.sampler,
        "pruner": settings.pruner_in_use,
        "trials": num_trials(settings),
        "study_seed": settings.seed,
    }
    return start_study_run(recipe.model.name, tags, parameters)


def _close_lost_run(trial: FrozenTrial) -> None:
    """Close the MLflow run of a trial that lost its worker."""
    run_id = trial.user_attrs.get(RUN_ID)
    if run_id is not None and INTERRUPTED not in trial.user_attrs:
        TrialRun(run_id).close("KILLED", {}, "its worker died")


def _find_winner(result: StudyResult) -> Version | None:
    """Return the winner's version, or None if there is none or somebody removed it."""
    try:
        return find_version(result.winner) if result.winner else None
    except NotFoundError:
        return None
