"""``study``: begins a study, or continues it, with one worker or several."""

import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from lineage.display.study_progress import StudyReporter, default_study_reporter
from lineage.errors import NotFoundError, RecipeError, UsageError
from lineage.evaluation.data import SplitData
from lineage.growing.plan import check_against_data, read_split_data, require_family_data
from lineage.growing.teacher import FirstTeacher, load_teacher, version_of
from lineage.growing.worker_processes import require_one_process
from lineage.recipe import (
    Overrides,
    Recipe,
    check_space,
    highest,
    load_recipe,
    override,
    override_texts,
    with_space,
)
from lineage.registry.store.connection import check_store
from lineage.studies.database import DEFAULT_STORAGE, VARIABLE, check_url
from lineage.studies.lookup import last_recipe, last_teacher
from lineage.studies.results import StudyResult
from lineage.studies.samplers import check_methods
from lineage.studies.session import open_session
from lineage.studies.space import grid
from lineage.studies.worker import Worker
from lineage.studies.worker_processes import Job, error_of, run_worker_processes
from lineage.training.devices import accelerate_session, init_processes, make_accelerator
from lineage.training.turns import on_main_process

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


@accelerate_session()
def study(  # noqa: PLR0913 - one argument for each option of the command
    recipe: str | None = None,
    *,
    name: str,
    teacher: str | None = None,
    space: Sequence[str] = (),
    trials: int | None = None,
    storage: str | None = None,
    workers: int = 1,
    overrides: Overrides = (),
    reporter: StudyReporter | None = None,
) -> StudyResult:
    """Try variants of a recipe, all in one family; what the registry holds is not trained again.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file; None to continue a study with the recipe,
            space and settings of its last session.
        name: Name of the study and its family; a study that exists is continued.
        teacher: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, an adopted version or an ensemble too,
            which teaches the first student of every trial; no patriarch is trained, and a trial has one
            student by default. Without one, every trial has a patriarch, unless a study is continued without
            a recipe, which has the teacher of its last session.
        space: Keys that vary, in place of the recipe's ``[study.space]``: texts ``key=RANGE``, or TOML files.
            A file may hold further keys of ``[study]``, which are used in place of the recipe's.
        trials: Number of trials over all workers and sessions, in place of the recipe's.
        storage: URL of the study's database; by default ``$LINEAGE_STUDIES``, or else ``studies.db`` in the
            working directory.
        workers: Number of processes on this machine; more than one needs a database that several can write.
        overrides: Values by key, or texts ``section.key=value``, as after ``--set``.
        reporter: Reporter of the trials' progress, to which only deaths are reported of several workers; by
            default lines in a notebook, and none elsewhere.

    Returns:
        All trials so far, and the best.

    Raises:
        UsageError: If recipe, space or storage cannot hold; nothing is created then.
        NotFoundError: If the recipe, the study to continue, the teacher or the images are not there.
        IntegrityError: If the study was begun with other settings or another teacher, or the teacher's
            classes, input or images are not those of the data.
        RegistryError: If the registry or the study's database cannot be reached or written.
        TrainingError: If all workers were lost.
    """
    url = study_storage(storage)
    check_url(url, workers)
    if recipe is None and teacher is None:
        teacher = _of_last_session(lambda: last_teacher(url, name))
    has_teacher = teacher is not None
    resolved = _resolve(recipe, name, url, space, trials, override_texts(overrides), has_teacher)
    accelerator = make_accelerator(
        resolved.training.precision, sync_batchnorm=resolved.training.sync_batchnorm
    )
    require_one_process("--workers", workers, accelerator)
    first = None if teacher is None else load_teacher(teacher)
    generations = highest(resolved, "succession.generations")
    resolved.require_reached(generations + (0 if first is None else first.version.generation))
    split_data = read_split_data(resolved)
    if first is not None:
        first.require_fits(resolved, split_data.dataset.spec)
    for variant in check_space(resolved):
        check_against_data(variant, split_data)
    on_main_process(check_store)  # which creates a database that is missing
    on_main_process(lambda: require_family_data(resolved, split_data, "begin another study with --name"))
    reporter = reporter or default_study_reporter()
    if workers == 1:
        return Worker(resolved, url, split_data, reporter, first).run()
    return _run_in_processes(resolved, url, split_data, workers, reporter, first)


def work(job: Job, reporter: StudyReporter) -> None:
    """Work on a study whose settings another process has checked; called in a worker process.

    Args:
        job: The study, as that process described it.
        reporter: Reporter of the trials' progress.
    """
    recipe = Recipe.from_json(job.recipe)
    make_accelerator(recipe.training.precision)
    teacher = load_teacher(job.teacher) if job.teacher else None
    Worker(recipe, job.storage, read_split_data(recipe), reporter, teacher).run()


def study_storage(given: str | None) -> str:
    """Return the URL of the database of studies, by default ``$LINEAGE_STUDIES`` or else ``studies.db``."""
    return given or os.environ.get(VARIABLE) or DEFAULT_STORAGE


def _resolve(
    recipe: str | None,
    name: str,
    url: str,
    space: Sequence[str],
    trials: int | None,
    overrides: Sequence[str],
    has_teacher: bool,
) -> Recipe:
    """Load the study's recipe, and check all that can be checked without the images.

    Raises:
        UsageError: If name, recipe or space cannot hold.
        NotFoundError: If the recipe, the study to continue or a file of the space is not there.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"A study's name must be made of letters, digits, '_' and '-', since its winner gets the alias"
            f" best-of-NAME, but got '{name}'."
        )
    changes = [*overrides, override("model.name", name)]
    if has_teacher and recipe:
        changes = ["succession.generations=1", *changes]
    if trials is not None:
        changes.append(override("study.trials", trials))
    resolved = (
        load_recipe(recipe, changes) if recipe else _of_last_session(lambda: last_recipe(url, name, changes))
    )
    if space:
        resolved = with_space(resolved, space, changes)
    if resolved.data.validation == 0:
        raise RecipeError(
            "data.validation must be greater than 0 for a study, which chooses by the validation part and"
            " never by the test part, but is 0; hold a tenth out with --set data.validation=0.1."
        )
    list(check_space(resolved))
    if has_teacher:
        _require_effect_on_students(resolved)
    check_methods(resolved.study)
    grid(resolved.study)
    return resolved


def _of_last_session(read: Callable[[], T]) -> T:
    """Return what is kept of the study that is to be continued; all ranks must call it.

    Raises:
        NotFoundError: If there is no such study.
    """
    init_processes()
    try:
        return on_main_process(read)
    except NotFoundError as error:
        raise NotFoundError(
            f"{error} A study that is to begin must be given a recipe; see 'lineage recipes ls'."
        ) from None


def _require_effect_on_students(recipe: Recipe) -> None:
    """Refuse keys of a space that no student depends on, where no patriarch is trained.

    Raises:
        RecipeError: If one varies.
    """
    without = ("patriarch.",) if recipe.student.network is None else ("patriarch.", "network.")
    for key in recipe.study.space:
        if key.startswith(without):
            hint = f" let student.{key} vary instead, or" if key.startswith("network.") else ""
            raise RecipeError(
                f"{key} must not vary in a study with a teacher, since it is the patriarch's alone, which is"
                f" not trained;{hint} leave it out of the space."
            )


def _run_in_processes(
    recipe: Recipe,
    url: str,
    split_data: SplitData,
    workers: int,
    reporter: StudyReporter,
    teacher: FirstTeacher | None,
) -> StudyResult:
    """Start worker processes, and wait until all trials have ended.

    Raises:
        LineageError: If the workers left before that.
    """
    version = version_of(teacher)
    uri = "" if version is None else version.uri
    jobs = [Job(recipe.to_json(), url, number, uri) for number in range(1, workers + 1)]
    with open_session(recipe, url, split_data.dataset.spec.digest, version) as session:
        codes = run_worker_processes(jobs, recipe.study.grace, reporter.remark)
        if not session.store.has_ended():
            raise error_of(codes, recipe.model.name)
        return session.finish()
