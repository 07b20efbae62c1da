"""Objectives of a study: numbers of a trial's generations on the validation part, never on the test part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lineage.registry.family.family import Version


@dataclass(frozen=True)
class Objective:
    """One number by which trials are compared.

    Attributes:
        name: Name in a recipe.
        metric: Metric of a generation's version, and of its epochs unless it is ``seconds``.
        direction: Direction of better values, ``maximize`` or ``minimize``.
    """

    name: str
    metric: str
    direction: Literal["maximize", "minimize"]

    @property
    def has_epochs(self) -> bool:
        """Whether there is a value after every epoch."""
        return self.metric.startswith("validation_")

    def value(self, generations: Sequence[Version]) -> float:
        """Return a trial's value: its last generation's; of ``seconds``, the sum over all generations.

        Time counts for generations that other trials trained as well.

        Args:
            generations: Versions of the trial's generations, patriarch first.
        """
        if self.has_epochs:
            return generations[-1].metrics[self.metric]
        return sum(version.metrics[self.metric] for version in generations)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "validation_accuracy", "maximize"),
        Objective("top5_accuracy", "validation_top5_accuracy", "maximize"),
        Objective("cross_entropy", "validation_cross_entropy", "minimize"),
        Objective("calibration", "validation_calibration_error", "minimize"),
        Objective("seconds", "seconds", "minimize"),
    )
}
