"""How a recipe's section ``[training]`` optimises: optimizer, handlers, and what of them enters keys."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lineage.recipe import HandlerSettings, TrainingSettings
from lineage.training.attaching import Attach, alters_training, build_handler, handler_options
from lineage.training.optimizers import build_optimizer


def make_optimizer(training: TrainingSettings, network: nn.Module) -> Optimizer:
    """Return the optimizer of a network's parameters.

    Raises:
        RecipeError: If it does not take an option, or cannot be built.
    """
    return build_optimizer(
        training.optimizer,
        network,
        decay_norm_and_bias=training.decay_norm_and_bias,
        options=training.optimizer_options,
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


def check_optimization(training: TrainingSettings, build_network: Callable[[], nn.Module]) -> None:
    """Build handlers, and the optimizer for a network like the recipe's unless it is one that cannot fail.

    Raises:
        RecipeError: If one cannot be built.
    """
    make_handlers(training)
    if training.optimizer not in {"sgd", "adamw"} or training.optimizer_options:
        with torch.random.fork_rng():
            make_optimizer(training, build_network())


def altering_handlers(training: TrainingSettings) -> list[HandlerSettings]:
    """Return the handlers that may change the training."""
    return [handler for handler in training.handlers if alters_training(handler.name)]


def later_settings(training: TrainingSettings) -> dict[str, Any]:
    """Return settings that came later, where they are not at their defaults: older keys stay valid."""
    found: dict[str, Any] = {}
    if training.balance_classes:
        found["balance_classes"] = True
    if training.patience is not None:
        found["early_stop"] = [training.patience, training.validate_every]
    if handlers := altering_handlers(training):
        found["handlers"] = [
            [handler.name, handler_options(handler.name, handler.options)] for handler in handlers
        ]
    return found
