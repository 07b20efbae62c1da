"""Grows one trial: a succession whose generations are pulled where any trial trained them before."""

from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine

from lineage.display.progress import Reporter
from lineage.evaluation.data import SplitData
from lineage.growing.leases import Leases
from lineage.growing.plan import check_against_data
from lineage.growing.succession import GenerationEvents, Succession
from lineage.growing.teacher import FirstTeacher
from lineage.recipe import Recipe, highest, set_values
from lineage.registry.family.family import Version
from lineage.studies.objectives import OBJECTIVES, Objective
from lineage.studies.pruning import Pruning
from lineage.studies.trial_record import NoRecord


def grow_trial(
    recipe: Recipe,
    split_data: SplitData,
    values: Mapping[str, Any],
    record: NoRecord,
    leases: Leases,
    reporter: Reporter,
    teacher: FirstTeacher | None = None,
) -> list[Version]:
    """Grow the generations of one trial; all ranks must call it.

    Args:
        recipe: Recipe of the study.
        split_data: Data of the study.
        values: Values that the trial tries, by recipe key.
        record: Record of the trial on rank 0; ``NoRecord`` on other ranks.
        leases: Leases of this worker on keys of generations.
        reporter: Reporter of the trial's progress, on rank 0.
        teacher: Teacher of the first student; None for a patriarch of the trial's own.

    Returns:
        Versions of the generations, patriarch first, without the teacher.

    Raises:
        AbandonedError: If the pruner gives the trial up.
        UsageError: If the values do not hold together.
        TrainingError: If a loss is not finite.
    """
    variant = set_values(recipe, values)
    check_against_data(variant, split_data)
    last = (0 if teacher is None else teacher.version.generation) + variant.succession.generations
    pruning = Pruning(record, _pruning_objective(recipe), longest_generation(recipe), last)
    succession = Succession(
        variant, split_data, reporter, from_version=teacher, leases=leases, observe=pruning.attach
    )
    trained: list[Version] = []

    def _record(_engine: Engine, was_trained: bool) -> None:
        version = succession.versions[-1]
        if was_trained:
            trained.append(version)
        record.add_generation(succession.versions, trained)
        pruning.judge(version, was_trained)

    succession.engine.add_event_handler(GenerationEvents.GENERATION_PULLED, _record, False)
    succession.engine.add_event_handler(GenerationEvents.GENERATION_COMPLETED, _record, True)
    succession.run()
    return succession.versions


def longest_generation(recipe: Recipe) -> int:
    """Return the most epochs that a generation of any trial has; all trials count their steps by it."""
    return max(highest(recipe, "training.epochs"), *(own.epochs or 0 for own in recipe.succession.student), 0)


def _pruning_objective(recipe: Recipe) -> Objective | None:
    """Return the objective that trials are pruned by: the only one, if it has a value after every epoch."""
    names: Sequence[str] = recipe.study.objective
    objective = OBJECTIVES[names[0]]
    return objective if len(names) == 1 and objective.has_epochs else None
