"""Limits of networks: recipes and registries may describe networks that no machine can hold."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from lineage.errors import LineageError, RecipeError
from lineage.formats import first_line, printable

MOST_PARAMETERS = 2_000_000_000
MOST_MODULES = 20_000
_SHOWN = 300
_DRAWING = {Tensor.normal_, Tensor.uniform_}


class _WithoutDrawing(TorchFunctionMode):
    """Mode in which weights are not drawn: without memory for them, torch imports its compiler to do it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWING:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def outlining(name: str) -> Iterator[None]:
    """Build networks without memory for weights inside the block, and stop where one passes the limits.

    Args:
        name: Name of the network, for errors.

    Raises:
        RecipeError: If a network has more parameters or modules than any machine could train.
    """
    num_parameters = num_modules = 0

    def count_tensor(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal num_parameters
        num_parameters += 0 if tensor is None else math.prod(tensor.shape)
        if num_parameters > MOST_PARAMETERS:
            raise RecipeError(
                f"Network '{name}' must have at most {MOST_PARAMETERS:,} parameters, but has more; give it a"
                " smaller width or fewer layers."
            )

    def count_module(_module: nn.Module, _name: str, _submodule: nn.Module | None) -> None:
        nonlocal num_modules
        num_modules += 1
        if num_modules > MOST_MODULES:
            raise RecipeError(
                f"Network '{name}' must have at most {MOST_MODULES:,} modules, but has more; give it fewer"
                " layers."
            )

    with ExitStack() as stack:
        stack.enter_context(register_module_parameter_registration_hook(count_tensor))
        stack.enter_context(register_module_buffer_registration_hook(count_tensor))
        stack.enter_context(register_module_module_registration_hook(count_module))
        stack.enter_context(_WithoutDrawing())
        stack.enter_context(torch.device("meta"))
        yield


@contextmanager
def translated_build_errors(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn whatever a builder raises for options that it does not understand into one sentence.

    Raises:
        RecipeError: If the block raises an error that is not ours.
    """
    try:
        yield
    except LineageError:
        raise
    except Exception as error:  # a builder is any code, and its options are any values
        reason = printable(first_line(error) or type(error).__name__)
        shown = ", ".join(f"{key}={value}" for key, value in options.items()) or "none"
        raise RecipeError(
            f"Network '{name}' must be built from its options ({shown[:_SHOWN]}), but its builder fails:"
            f" {reason[:_SHOWN]}; correct them."
        ) from error
