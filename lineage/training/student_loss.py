"""A student's loss: the labels and a distillation loss by name, each with its weight."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lineage.errors import RecipeError
from lineage.extensions import resolve, typed_options
from lineage.formats import first_line
from lineage.training.distillation import (
    DISTILLATIONS,
    Distillation,
    Gather,
    distillation_loss,
    standardised,
)
from lineage.training.gathering import gather_rows
from lineage.training.losses import strict_loss

DEFAULT = "kl"
_GIVEN = ("temperature", "gather")  # not by [student.options]


@dataclass(frozen=True)
class StudentLoss:
    """A student's loss but for the terms that look at features.

    Attributes:
        name: Key of ``DISTILLATIONS``, or ``package:name`` of an installed package.
        label_weight: Weight of the labels, the paper's λ, in [0, 1].
        loss_weight: Weight of the distillation loss, at least 0; at 0 the teacher is not looked at.
        temperature: Divisor of the logits in the distillation loss.
        standardise: Whether the distillation loss sees standardised logits.
        distillation: The distillation loss itself.
    """

    name: str
    label_weight: float
    loss_weight: float
    temperature: float
    standardise: bool
    distillation: Distillation

    def __call__(
        self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, share: float = 1.0
    ) -> Tensor:
        """Return the loss, with ``share`` of the weight of what comes from the teacher; see ``Loss``."""
        weight = share * self.loss_weight
        if weight == 0:
            return self.label_weight * strict_loss(logits, labels)
        assert teacher_logits is not None
        if self.name == DEFAULT and not self.standardise:
            return distillation_loss(
                logits, teacher_logits, labels, self.label_weight, self.temperature, weight
            )
        own, theirs = logits, teacher_logits
        if self.standardise:
            own, theirs = standardised(logits), standardised(teacher_logits)
        taught = weight * self.distillation(own, theirs, labels)
        return taught if self.label_weight == 0 else self.label_weight * strict_loss(logits, labels) + taught


def build_student_loss(
    name: str,
    options: Mapping[str, Any],
    *,
    label_weight: float,
    loss_weight: float,
    temperature: float,
    standardise: bool = False,
    gather: Gather = gather_rows,
) -> StudentLoss:
    """Return the loss of a student, see ``StudentLoss``.

    Args:
        name: Key of ``DISTILLATIONS``, or ``package:name`` of an installed package.
        options: Options of the distillation loss by name.
        label_weight: Weight of the labels.
        loss_weight: Weight of the distillation loss.
        temperature: Divisor of the logits in the distillation loss.
        standardise: Whether the distillation loss sees standardised logits.
        gather: Function that gathers the rows of all processes, for a loss that needs them.

    Raises:
        RecipeError: If the loss is unknown, does not take an option, or cannot be built.
    """
    builder = resolve("distillation", name, DISTILLATIONS)
    given = {"temperature": temperature, "gather": gather}
    used = {key: value for key, value in given.items() if key in inspect.signature(builder).parameters}
    checked = distillation_options(name, options)
    try:
        distillation: Distillation = builder(**used, **checked)
    except Exception as error:  # a package's builder is any code
        raise RecipeError(
            f"student.loss '{name}' must be built from its options, {checked or 'none'}, but its builder"
            f" fails: {first_line(error)}; correct [student.options]."
        ) from error
    return StudentLoss(name, label_weight, loss_weight, temperature, standardise, distillation)


def distillation_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a distillation loss with the types and defaults of its signature.

    This is what enters a student's key.

    Raises:
        RecipeError: If the loss is unknown, takes no such option, or an option has another type.
    """
    builder = resolve("distillation", name, DISTILLATIONS)
    return typed_options(f"The distillation loss '{name}'", "student.options", builder, options, _GIVEN)


def uses(name: str, parameter: str) -> bool:
    """Return whether a distillation loss is built with ``temperature``, or with ``gather``.

    Raises:
        RecipeError: If the loss is unknown.
    """
    return parameter in inspect.signature(resolve("distillation", name, DISTILLATIONS)).parameters


def require_working(loss: StudentLoss, num_classes: int) -> None:
    """Try a loss on two made-up samples, before anything is trained with it.

    Raises:
        RecipeError: If it fails, or returns anything but a scalar with a gradient.
    """
    generator = torch.Generator().manual_seed(0)
    logits, teacher_logits = torch.randn(2, 2, num_classes, generator=generator).unbind()
    try:
        value = loss(logits.requires_grad_(), torch.arange(2), teacher_logits)
    except Exception as error:  # a package's loss is any code
        found = f"fails for two samples of {num_classes} classes: {first_line(error)}"
    else:
        if isinstance(value, Tensor) and value.shape == () and value.requires_grad:
            return
        kind = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        found = f"returns {kind}"
    raise RecipeError(
        f"student.loss '{loss.name}' must return a scalar with a gradient for logits, the teacher's logits"
        f" and labels, but {found}; correct it, or choose another one."
    )
