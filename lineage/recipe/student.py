"""The section ``[student]``: what a student learns from, and how much of each."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from lineage.recipe.problems import ProblemsError
from lineage.recipe.sections import NetworkSettings, PackageName, Section

DistillationName = Literal["kl", "dkd", "dist"]
TermName = Literal["hint", "attention", "relation", "explanation", "prior"]

LabelWeight = Annotated[float, Field(ge=0, le=1)]
# TOML gives lists where a frozen recipe holds tuples: only the container is converted, its items stay strict.
LabelWeights = Annotated[tuple[LabelWeight, ...], Field(strict=False, min_length=1)]
LossWeights = Annotated[tuple[NonNegativeFloat, ...], Field(strict=False, min_length=1)]


def _check_stage(stage: int) -> int:
    if stage == 0:
        raise ValueError("student.terms.stage must not be 0: stages count from 1, or back from -1.")
    return stage


class TermSettings(Section):
    """Term of a student's loss that compares its feature maps with its teacher's."""

    name: TermName
    """Name of the term."""
    weight: PositiveFloat
    """Factor of the term in the loss."""
    stage: Annotated[int, AfterValidator(_check_stage)] = -1
    """Stage of the networks that it looks at: 1 is the first one, -1 the last."""


Terms = Annotated[tuple[TermSettings, ...], Field(strict=False)]


class StudentSettings(Section):
    """Distillation of every later generation from labels and its teacher."""

    network: NetworkSettings | None = None
    """Network of the students, such as {name = "resnet8"}, by default the one in [network]."""
    label_weight: LabelWeight | LabelWeights
    """Weight λ of the labels against the teacher; a list has one for each student; the last repeats."""
    loss: DistillationName | PackageName = "kl"
    """Loss on the teacher's logits: a built-in name, or package:name of an installed package."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of that loss, by name, such as alpha and beta (dkd)."""
    loss_weight: NonNegativeFloat | LossWeights | None = None
    """Weight of that loss, by default 1 - λ; a list has one for each student; the last repeats."""
    standardise: bool = False
    """Whether that loss sees each sample's logits with mean 0 and standard deviation 1."""
    terms: Terms = ()
    """Terms that compare feature maps of student and teacher, added to the loss; by default none."""
    warmup_epochs: NonNegativeInt = 0
    """Number of epochs in which the weight of what comes from the teacher rises, linearly, to its whole."""
    temperature: PositiveFloat = 1.0
    """Divisor T of the logits of teacher and student in the distillation loss."""
    soft_targets: Literal["live", "stored"] = "live"
    """Source of the teacher's logits: computed live for each batch, or stored once for all its students."""
    views: PositiveInt | None = None
    """Distinct augmented views of each training image before they repeat; by default one for each epoch."""
    soft_target_classes: PositiveInt | None = None
    """Number of top classes that stored soft targets keep, for one temperature alone; by default all."""

    def label_weight_for(self, generation: int) -> float:
        """Return the weight of the labels for the student of ``generation``, which counts from 1.

        Raises:
            ValueError: If ``generation`` is less than 1: a patriarch has no teacher to weigh labels against.
        """
        if generation < 1:
            raise ValueError(f"generation must be at least 1, the first student, but got {generation}.")
        return _at(self.label_weight, generation)

    def loss_weight_for(self, generation: int) -> float:
        """Return the weight of the distillation loss for the student of ``generation``, from 1.

        Raises:
            ValueError: If ``generation`` is less than 1.
        """
        label_weight = self.label_weight_for(generation)
        return 1 - label_weight if self.loss_weight is None else _at(self.loss_weight, generation)

    def with_label_weight(self, weight: float, generation: int) -> Self:
        """Return the settings with another weight of the labels for one generation alone; not validated."""
        last = max(generation, *self._weighed) + 1  # keeps its weight, which the later ones have
        weights = [self.label_weight_for(number) for number in range(1, last + 1)]
        weights[generation - 1] = weight
        return self.model_copy(update={"label_weight": tuple(weights)})

    @property
    def taught_generations(self) -> list[int]:
        """Generations, each with weights of its own, whose loss looks at the teacher; they count from 1."""
        return [number for number in self._weighed if self.loss_weight_for(number) > 0]

    @property
    def _weighed(self) -> range:
        """Generations from 1 to the last that has weights of its own."""
        lists = [value for value in (self.label_weight, self.loss_weight) if isinstance(value, tuple)]
        return range(1, max(map(len, lists), default=1) + 1)

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if problems := list(self.contradictions()):
            raise ProblemsError(problems)
        return self

    def contradictions(self) -> Iterator[str]:
        """Yield what keys of the section contradict in others, one sentence each."""
        for number in self._weighed:
            if self.label_weight_for(number) == 0 == self.loss_weight_for(number):
                yield (
                    "student.label_weight and student.loss_weight must not both be 0, but are for generation"
                    f" {number}, whose logits would learn from nothing; raise one."
                )
        if not self.taught_generations and self._of_the_teacher:
            yield (
                f"student.{self._of_the_teacher[0]} has no effect where no student looks at its teacher:"
                " student.loss_weight, which is 1 - student.label_weight by default, is 0; raise it, or leave"
                " the setting out."
            )
        yield from self._contradictions_of_terms()
        if self.standardise and self.soft_targets == "stored" and self.soft_target_classes is not None:
            yield (
                "student.standardise needs the logits of all classes, but student.soft_target_classes stores"
                f" the largest {self.soft_target_classes}; leave one of them out."
            )

    def _contradictions_of_terms(self) -> Iterator[str]:
        if self.terms and self.soft_targets == "stored":
            yield (
                "student.terms look at the teacher's feature maps, which stored soft targets do not hold; set"
                " student.soft_targets to 'live', or leave out the terms."
            )
        places = [(term.name, term.stage) for term in self.terms]
        twice = next((place for place in places if places.count(place) > 1), None)
        if twice is not None:
            yield (
                f"student.terms must have each term once a stage, but has '{twice[0]}' twice at stage"
                f" {twice[1]}; give one of them the sum of the weights."
            )

    @property
    def _of_the_teacher(self) -> list[str]:
        """Keys that are not at their defaults and act on the distillation loss, or on terms too."""
        keys = ["loss", "options", "standardise"] + ([] if self.terms else ["warmup_epochs"])
        return [key for key in keys if not self.is_default(key)]


def _at(value: float | tuple[float, ...], generation: int) -> float:
    """Return the value of a generation, where the last of several values holds on."""
    return value if isinstance(value, float) else value[min(generation, len(value)) - 1]
