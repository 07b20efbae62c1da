"""How a recipe's section ``[training]`` optimises: optimizer, handlers, and what of them enters keys."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lineage.models.stage_order import StageOrder
from lineage.recipe import HandlerSettings, Recipe, TrainingSettings
from lineage.training.attaching import Attach, alters_training, build_handler, handler_options
from lineage.training.optimizers import build_optimizer

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class FineTuning:
    """How a network that starts from weights is trained by its stages.

    Attributes:
        frozen: Names of its modules that stay as they are, in evaluation mode.
        factors: Factors of the learning rate of its parameters; 1 for all others.
    """

    frozen: Sequence[str] = ()
    factors: Mapping[nn.Parameter, float] = field(default_factory=dict)


def fine_tuning(recipe: Recipe, network: nn.Module, input_shape: Shape) -> FineTuning:
    """Freeze the first stages of a network as its recipe says, and return how the others are trained.

    Raises:
        UsageError: If the network has no stages, or fewer than are to be frozen.
    """
    training = recipe.training
    if not _by_stages(recipe):
        return FineTuning()
    order = StageOrder(network, input_shape, f"the network '{recipe.network.name}'")
    factors = order.factors(training.layer_decay) if training.layer_decay < 1 else {}
    return FineTuning(order.freeze(training.freeze_stages), factors)


def make_optimizer(
    training: TrainingSettings, network: nn.Module, factors: Mapping[nn.Parameter, float]
) -> Optimizer:
    """Return the optimizer of a network's parameters.

    Args:
        training: Its settings.
        network: The network.
        factors: Factors of the learning rate of some of its parameters.

    Raises:
        RecipeError: If it does not take an option, or cannot be built.
    """
    return build_optimizer(
        training.optimizer,
        network,
        decay_norm_and_bias=training.decay_norm_and_bias,
        options=training.optimizer_options,
        factors=factors,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
    )


def make_handlers(training: TrainingSettings) -> list[Attach]:
    """Return the handlers of installed packages that are to be attached.

    Raises:
        RecipeError: If one is unknown, or cannot be built.
    """
    return [build_handler(handler.name, handler.options) for handler in training.handlers]


def check_optimization(recipe: Recipe, build_network: Callable[[], nn.Module], input_shape: Shape) -> None:
    """Build handlers, and the optimizer for a network like the recipe's unless it is one that cannot fail.

    Raises:
        UsageError: If one cannot be built, or the network has no stages where the recipe names some.
    """
    training = recipe.training
    make_handlers(training)
    if training.optimizer in {"sgd", "adamw"} and not training.optimizer_options and not _by_stages(recipe):
        return
    with torch.random.fork_rng():
        network = build_network()
    make_optimizer(training, network, fine_tuning(recipe, network, input_shape).factors)


def _by_stages(recipe: Recipe) -> bool:
    """Return whether the stages of the recipe's network are trained in different ways."""
    training = recipe.training
    return recipe.network.has_weights and (training.freeze_stages > 0 or training.layer_decay < 1)


def altering_handlers(training: TrainingSettings) -> list[HandlerSettings]:
    """Return the handlers that may change the training."""
    return [handler for handler in training.handlers if alters_training(handler.name)]


def later_settings(recipe: Recipe) -> dict[str, Any]:
    """Return settings that came later, where they are not at their defaults: older keys stay valid."""
    training = recipe.training
    found: dict[str, Any] = {}
    if _by_stages(recipe):
        found["stages"] = [training.freeze_stages, training.layer_decay]
    if training.balance_classes:
        found["balance_classes"] = True
    if training.patience is not None:
        found["early_stop"] = [training.patience, training.validate_every]
    if handlers := altering_handlers(training):
        found["handlers"] = [
            [handler.name, handler_options(handler.name, handler.options)] for handler in handlers
        ]
    return found
