"""Grows one trial: a succession whose generations are pulled where any trial trained them before."""

from collections.abc import Sequence

from ignite.engine import Engine

from lineage.claims import Claims
from lineage.identity import Material
from lineage.plan import check_against_data
from lineage.recipe import Range, Recipe, set_values
from lineage.registry.ancestry import Version
from lineage.registry.studies import TrialRun
from lineage.report.progress import Reporter
from lineage.studies.attempt import Attempt
from lineage.studies.book import Assignment
from lineage.studies.objectives import OBJECTIVES, Objective
from lineage.studies.pruning import Pruning
from lineage.succession import GenerationEvents, Succession
from lineage.training.devices import is_main_process

GENERATIONS = "lineage.generations"
TRAINED = "lineage.trained"

_EPOCHS = "training.epochs"


def grow_trial(
    recipe: Recipe,
    material: Material,
    assignment: Assignment,
    *,
    claims: Claims | None,
    attempt: Attempt | None,
    run: TrialRun | None,
    reporter: Reporter,
) -> list[Version]:
    """The generations of one trial, patriarch first; all ranks must call it.

    Args:
        recipe: Of the study.
        material: Its data.
        assignment: What this trial tries.
        claims: Of this worker, on rank 0.
        attempt: The trial in its database, on rank 0.
        run: Of the trial, on rank 0.
        reporter: Is told what happens, on rank 0.

    Raises:
        AbandonedError: If the pruner gives the trial up.
        UsageError: If its values do not hold together.
        TrainingError: If a loss is not finite.
    """
    tried = set_values(recipe, assignment.values)
    check_against_data(tried, material)
    pruning = Pruning(
        attempt, run, _pruned_by(recipe), longest_generation(recipe), tried.succession.generations
    )
    succession = Succession(tried, material, reporter, claims=claims, attach=pruning.attach)
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
    attempt: Attempt | None, run: TrialRun | None, versions: Sequence[Version], trained: Sequence[Version]
) -> None:
    """Keep what the trial has so far, in the study and with MLflow: a killed worker's counts as well."""
    assert attempt is not None and run is not None
    attempt.note(GENERATIONS, [version.id for version in versions])
    attempt.note(TRAINED, [version.id for version in trained])
    run.add_generation(versions[-1], versions[-1] in trained)
