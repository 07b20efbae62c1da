"""``study``: begin a study, or continue it, alone or with several workers."""

import contextlib
import json
import os
import re
from collections.abc import Sequence

from optuna.trial import TrialState

from lineage.errors import LineageError, RecipeError, UsageError
from lineage.growing.cache_key import SplitData
from lineage.growing.plan import check_against_data, read_split_data
from lineage.recipe import Recipe, check_space, load_recipe, with_space
from lineage.registry.store.connection import check_store
from lineage.registry.store.study_runs import StudyRun, resume_study_run, start_study_run
from lineage.report.study_progress import SilentStudyReporter, StudyReporter
from lineage.studies.database import (
    DEFAULT_STORAGE,
    VARIABLE,
    check_url,
    is_sqlite,
    only_process,
    open_storage,
    safe_url,
    translated_errors,
)
from lineage.studies.leases import Heartbeat
from lineage.studies.results import StudyResult, read_result
from lineage.studies.samplers import check_methods
from lineage.studies.space import describe_space, grid
from lineage.studies.study_store import StudyStore, num_trials
from lineage.studies.worker import StudyDesk, Worker, close_lost_run, update_study
from lineage.studies.worker_processes import Job, error_of, run_workers
from lineage.training.devices import make_accelerator, on_main_process

_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


def study(
    recipe: str,
    *,
    name: str,
    space: Sequence[str] = (),
    trials: int | None = None,
    storage: str | None = None,
    workers: int = 1,
    overrides: Sequence[str] = (),
    reporter: StudyReporter | None = None,
) -> StudyResult:
    """Try variants of a recipe, all in one family; what the registry holds is not trained again.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file.
        name: Of the study and its family; a study that exists is continued.
        space: What varies, in place of the recipe's ``[study.space]``: words ``key=RANGE``, or TOML files.
        trials: How many there are to be, over all workers and sessions, in place of the recipe's number.
        storage: URL of the study's database; ``$LINEAGE_STUDIES``, or ``studies.db`` here, by default.
        workers: Processes on this machine; more than one needs a database that several can write.
        overrides: ``section.key=value``, as after ``--set``.
        reporter: Is told of the trials; where there are several workers, only of those that died.

    Returns:
        All trials so far, and the best.

    Raises:
        UsageError: If recipe, space or storage cannot hold; nothing is created then.
        NotFoundError: If the recipe or the images are not there.
        IntegrityError: If the study was begun with other settings.
        RegistryError: If the registry or the study's database cannot be reached or written.
        TrainingError: If all workers were lost.
    """
    resolved = _resolve(recipe, name, space, trials, overrides)
    url = study_storage(storage)
    check_url(url, workers)
    accelerator = make_accelerator(
        resolved.training.precision, sync_batchnorm=resolved.training.sync_batchnorm
    )
    if workers > 1 and accelerator.num_processes > 1:
        raise UsageError(
            f"--workers must be 1 where a launcher starts the processes of one worker, but got {workers};"
            " launch the same command several times."
        )
    on_main_process(check_store)
    split_data = read_split_data(resolved)
    for variant in check_space(resolved):
        check_against_data(variant, split_data)
    with contextlib.ExitStack() as stack:
        told = reporter or SilentStudyReporter()
        if workers == 1:
            return _work_here(stack, resolved, url, split_data, told)
        return _work_apart(stack, resolved, url, split_data, workers, told)


def work(job: Job, reporter: StudyReporter) -> None:
    """What a worker process does: the study has been begun, and its settings checked."""
    recipe = Recipe.from_json(job.recipe)
    make_accelerator(recipe.training.precision)
    split_data = read_split_data(recipe)
    with contextlib.ExitStack() as stack:
        desk = _open_desk(stack, recipe, job.storage, split_data)
        Worker(recipe, split_data, desk, reporter).run()
        _finish(desk)  # who began the study may be gone


def study_storage(given: str | None) -> str:
    """URL of the database of studies: the one given, ``$LINEAGE_STUDIES``, or ``studies.db`` here."""
    return given or os.environ.get(VARIABLE) or DEFAULT_STORAGE


def _resolve(
    recipe: str, name: str, space: Sequence[str], trials: int | None, overrides: Sequence[str]
) -> Recipe:
    """The study's recipe, with all that can be checked without the images."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"A study's name must be made of letters, digits, '_' and '-', since its winner gets the alias"
            f" best-of-NAME, but got '{name}'."
        )
    changes = [*overrides, f"model.name={json.dumps(name)}"]
    if trials is not None:
        changes.append(f"study.trials={trials}")
    resolved = load_recipe(recipe, changes)
    if space:
        resolved = with_space(resolved, space)
    if resolved.data.validation == 0:
        raise RecipeError(
            "data.validation must be greater than 0 for a study, which chooses by the validation part and"
            " never by the test part, but is 0; hold a tenth out with --set data.validation=0.1."
        )
    if "student.temperature" in resolved.study.space and resolved.student.soft_target_classes is not None:
        raise RecipeError(
            "student.temperature must not vary in a study whose stored soft targets hold the largest classes,"
            " at one temperature alone; leave it out of the space, or leave out"
            " student.soft_target_classes to store all."
        )
    list(check_space(resolved))
    check_methods(resolved.study)
    grid(resolved.study)
    return resolved


def _work_here(
    stack: contextlib.ExitStack, recipe: Recipe, url: str, split_data: SplitData, reporter: StudyReporter
) -> StudyResult:
    """Be the only worker that this command starts; on several ranks, all work on the same trials."""
    desks: list[StudyDesk] = []

    def _open() -> None:
        stack.enter_context(only_process(url, recipe.model.name))
        desks.append(_open_desk(stack, recipe, url, split_data))
        if is_sqlite(url):
            desks[0].book.bury_others()

    on_main_process(_open)
    desk = desks[0] if desks else None
    try:
        Worker(recipe, split_data, desk, reporter).run()
    except BaseException:
        if desk is not None:
            _leave(desk)
        raise
    return on_main_process(lambda: _finish(desks[0]))


def _work_apart(
    stack: contextlib.ExitStack,
    recipe: Recipe,
    url: str,
    split_data: SplitData,
    workers: int,
    reporter: StudyReporter,
) -> StudyResult:
    """Start processes that work, and wait for them."""
    desk = _open_desk(stack, recipe, url, split_data)
    jobs = [Job(recipe.to_json(), url, number) for number in range(1, workers + 1)]
    try:
        codes = run_workers(jobs, recipe.study.grace, reporter.remark)
    except BaseException:
        _leave(desk)
        raise
    if not desk.book.has_ended():
        _leave(desk)
        raise error_of(codes, recipe.model.name)
    return _finish(desk)


def _open_desk(stack: contextlib.ExitStack, recipe: Recipe, url: str, split_data: SplitData) -> StudyDesk:
    """Begin the study or find it again, with its MLflow run, and say from now on that we live."""
    settings = recipe.study
    storage = open_storage(url, settings.heartbeat, settings.grace)
    book = StudyStore(storage, recipe, split_data.dataset.spec.digest, close_lost_run)
    runs: list[StudyRun] = []

    def _open_run(noted: str | None) -> str:
        run = resume_study_run(noted, book.name) if noted else None
        runs.append(run or _start_run(recipe, url))
        return runs[0].run_id

    book.ensure_run(_open_run)
    stack.callback(storage.remove_session)
    stack.callback(book.leases.release_all)
    pulse = stack.enter_context(Heartbeat(book.leases, settings.heartbeat))
    return StudyDesk(book, runs[0], pulse)


def _start_run(recipe: Recipe, url: str) -> StudyRun:
    settings = recipe.study
    tags = {
        "storage": safe_url(url),
        "objective": ",".join(settings.objective),
        "space": json.dumps(describe_space(settings)),
        "recipe_digest": recipe.digest,
    }
    parameters = {
        "sampler": settings.sampler,
        "pruner": settings.pruner_in_use,
        "trials": num_trials(settings),
        "study_seed": settings.seed,
    }
    return start_study_run(recipe.model.name, tags, parameters)


def _finish(desk: StudyDesk) -> StudyResult:
    """Close the study's run; all trials have ended."""
    update_study(desk.book, desk.run)
    desk.run.stop("FINISHED")
    with translated_errors(desk.book.storage.url):
        return read_result(desk.book.study)


def _leave(desk: StudyDesk) -> None:
    """Close the study's run, unless other workers are still at it."""
    with contextlib.suppress(LineageError):  # the first error is the one to tell
        with translated_errors(desk.book.storage.url):
            running = desk.book.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if not running:
            desk.run.stop("KILLED")
