"""Handlers and metrics of a user's own, attached to the engines of a generation.

An entry point of the group ``lineage.handlers`` is a builder that takes options by name and returns an
``Attach``. Its code, name and options are part of the key of each generation, since it may change the
training, unless the builder has an attribute ``alters_training = False``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ignite.engine import Engine, Events
from torch import Tensor

from lineage.errors import RecipeError, TrainingError
from lineage.extensions import resolve, typed_options
from lineage.formats import first_line

Part = Literal["training", "validation"]

Attach = Callable[[Engine, Part, int], None]
"""Callback on every rank, given an engine, what it does, and the index of the generation.

It is called once with the engine that trains, whose output is the loss, on the device, and before each
validation with a fresh engine that measures, whose output is a dict of ``logits`` (n, C), ``labels`` (n,) and
``indices`` (n,). What is in ``engine.state.metrics`` at the end of an epoch or of a validation is logged; a
metric of the validation is also registered, as ``validation_NAME``.
"""


def build_handler(name: str, options: Mapping[str, Any]) -> Attach:
    """Return the handler called ``name``.

    Args:
        name: ``package:name`` of an installed package.
        options: Options of the handler by name.

    Raises:
        RecipeError: If there is none, it does not take an option, or it cannot be built.
    """
    builder, checked = resolve("handler", name, {}), handler_options(name, options)
    try:
        attach: Attach = builder(**checked)
    except Exception as error:  # a package's builder is any code
        raise RecipeError(
            f"The handler '{name}' must be built from its options, {checked or 'none'}, but its builder"
            f" fails: {first_line(error)}; correct the options of training.handlers."
        ) from error
    if not callable(attach):
        raise RecipeError(
            f"The handler '{name}' must be a function of an engine, a part and a generation, but its builder"
            f" returned {type(attach).__name__}; correct the builder."
        )
    return attach


def handler_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a handler with the types and defaults of its signature.

    Raises:
        RecipeError: If there is no such handler, it takes no such option, or an option has another type.
    """
    builder = resolve("handler", name, {})
    return typed_options(f"The handler '{name}'", "training.handlers.options", builder, options)


def alters_training(name: str) -> bool:
    """Return whether a handler may change the training, as all do that do not say otherwise.

    Raises:
        RecipeError: If there is no such handler.
    """
    return bool(getattr(resolve("handler", name, {}), "alters_training", True))


def attach_to_training(trainer: Engine, handlers: Sequence[Attach], generation: int) -> None:
    """Attach handlers to the engine that trains; at the end of an epoch its metrics are made numbers."""
    for handler in handlers:
        handler(trainer, "training", generation)
    if handlers:

        @trainer.on(Events.EPOCH_COMPLETED)
        def _require_numbers(engine: Engine) -> None:
            engine.state.metrics.update(numbers(engine.state.metrics))


def attach_to_validation(handlers: Sequence[Attach], generation: int, evaluator: Engine) -> None:
    """Attach handlers to an engine that measures the validation part."""
    for handler in handlers:
        handler(evaluator, "validation", generation)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an engine as plain numbers.

    Raises:
        TrainingError: If one is not a number.
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(
                f"The metric '{name}' that a handler gives must be one number, but is {kind}; correct the"
                " handler."
            ) from error
    return found
