"""The section ``[succession]``: how many students there are, and what single ones have of their own."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, model_validator

from lineage.recipe.sections import NetworkSettings, Section
from lineage.recipe.student import LabelWeight

MOST_GENERATIONS = 100_000


class OwnSettings(Section):
    """Settings of one student alone; they win over [network], [student] and [training]."""

    generation: Annotated[int, Field(ge=1, le=MOST_GENERATIONS)]
    """Generation of the student, from 1; 0 is the patriarch."""
    network: NetworkSettings | None = None
    """Its network, such as {name = "resnet8"}; by default that of the other students."""
    label_weight: LabelWeight | None = None
    """Its weight λ of the labels, by default that of student.label_weight."""
    epochs: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Its number of passes through the training set, by default training.epochs."""

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if self.network is None and self.label_weight is None and self.epochs is None:
            raise ValueError(
                "succession.student must have a network, label_weight or epochs for generation"
                f" {self.generation}, but has none; give one, or leave the entry out."
            )
        return self


class SuccessionSettings(Section):
    """Length and seed of the succession."""

    generations: Annotated[int, Field(ge=0, le=MOST_GENERATIONS)] = 2
    """Number of students after the patriarch; 0 for a patriarch alone."""
    seed: NonNegativeInt = 0
    """Seed that, with a generation's index, fixes its initial weights and the order of its samples."""
    student: Annotated[tuple[OwnSettings, ...], Field(strict=False)] = ()
    """Students with settings of their own, one [[succession.student]] each; by default none."""

    @model_validator(mode="after")
    def _require_each_once(self) -> Self:
        numbers = [own.generation for own in self.student]
        twice = next((number for number in numbers if numbers.count(number) > 1), None)
        if twice is not None:
            raise ValueError(
                f"succession.student must have each generation once, but has {twice} {numbers.count(twice)}"
                " times; put its settings into one entry."
            )
        return self
