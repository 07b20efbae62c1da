"""What a study optimises: numbers of a trial's generations on the validation part, never on the test part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lineage.registry.family.family import Version


@dataclass(frozen=True)
class Objective:
    """One number of a trial.

    Attributes:
        name: As in a recipe.
        metric: Of a generation's epochs and version; of ``seconds``, of its version only.
        direction: ``maximize`` or ``minimize``.
    """

    name: str
    metric: str
    direction: Literal["maximize", "minimize"]

    @property
    def has_epochs(self) -> bool:
        """Whether there is a value after every epoch."""
        return self.metric.startswith("validation_")

    def value(self, generations: Sequence[Version]) -> float:
        """Of a trial: of its last generation, but time over all of them, whoever trained them.

        Args:
            generations: Patriarch first.
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
