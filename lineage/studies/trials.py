"""Grows one trial: a succession whose generations are pulled where any trial trained them before."""

from collections.abc import Sequence

from ignite.engine import Engine

from lineage.growing.cache_key import SplitData
from lineage.growing.leases import Leases
from lineage.growing.plan import check_against_data
from lineage.growing.succession import GenerationEvents, Succession
from lineage.processes import is_main_process
from lineage.recipe import Range, Recipe, set_values
from lineage.registry.family.family import Version
from lineage.registry.store.study_runs import TrialRun
from lineage.report.progress import Reporter
from lineage.studies.objectives import OBJECTIVES, Objective
from lineage.studies.pruning import Pruning
from lineage.studies.running_trial import RunningTrial
from lineage.studies.study_store import Assignment

GENERATIONS = "lineage.generations"
TRAINED = "lineage.trained"

_EPOCHS = "training.epochs"


def grow_trial(
    recipe: Recipe,
    split_data: SplitData,
    assignment: Assignment,
    *,
    leases: Leases | None,
    attempt: RunningTrial | None,
    run: TrialRun | None,
    reporter: Reporter,
) -> list[Version]:
    """The generations of one trial, patriarch first; all ranks must call it.

    Args:
        recipe: Of the study.
        split_data: Its data.
        assignment: What this trial tries.
        leases: Of this worker, on rank 0.
        attempt: The trial in its database, on rank 0.
        run: Of the trial, on rank 0.
        reporter: Is told what happens, on rank 0.

    Raises:
        AbandonedError: If the pruner gives the trial up.
        UsageError: If its values do not hold together.
        TrainingError: If a loss is not finite.
    """
    tried = set_values(recipe, assignment.values)
    check_against_data(tried, split_data)
    pruning = Pruning(
        attempt, run, _pruned_by(recipe), longest_generation(recipe), tried.succession.generations
    )
    succession = Succession(tried, split_data, reporter, leases=leases, attach=pruning.attach)
    trained: list[Version] = []

    def _look(_engine: Engine, was_trained: bool) -> None:
        version = succession.versions[-1]
        trained.extend([version] if was_trained else [])
        if is_main_process():
            _note(attempt, run, succession.versions, trained)
        pruning.judge(version, was_trained)

    succession.engine.add_event_handler(GenerationEvents.GENERATION_PULLED, _look, False)
    succession.engine.add_event_handler(GenerationEvents.GENERATION_COMPLETED, _look, True)
    succession.run()
    return succession.versions


def longest_generation(recipe: Recipe) -> int:
    """Epochs of a generation, at most: every trial counts its steps by it."""
    axis = recipe.study.space.get(_EPOCHS)
    if axis is None:
        return recipe.training.epochs
    return int(axis.high if isinstance(axis, Range) else max(axis))


def _pruned_by(recipe: Recipe) -> Objective | None:
    """The objective by which trials are pruned: there must be one alone, with a value after every epoch."""
    names: Sequence[str] = recipe.study.objective
    if len(names) > 1 or not OBJECTIVES[names[0]].has_epochs:
        return None
    return OBJECTIVES[names[0]]


def _note(
    attempt: RunningTrial | None,
    run: TrialRun | None,
    versions: Sequence[Version],
    trained: Sequence[Version],
) -> None:
    """Keep what the trial has so far, in the study and with MLflow: a killed worker's counts as well."""
    assert attempt is not None and run is not None
    attempt.note(GENERATIONS, [version.id for version in versions])
    attempt.note(TRAINED, [version.id for version in trained])
    run.add_generation(versions[-1], versions[-1] in trained)
