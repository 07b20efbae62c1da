"""Runs of a graph on tensors without data, which need neither time nor memory."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lineage.errors import IntegrityError, UsageError
from lineage.formats import first_line

# A ViT-H/14 on 518×518 pixels has attention weights of 120 MB an image.
_LARGEST_TENSOR = 2**28
_LARGEST_SIZE = 2**63


def output_shape(program: fx.GraphModule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of what ``program`` gives for images of ``shape``, without computing it.

    Raises:
        UsageError: If the program fails, or does not return one tensor.
        IntegrityError: If it needs a tensor of more than 256 MB an image, or writes to its images or weights.
    """
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake, _BoundedMemory(shape[0]):
        images = torch.empty(shape)
        run = _DryRun(program, fake)
        try:
            outputs = run.run(images)
        except IntegrityError:
            raise
        except Exception as error:  # operators raise errors of many types
            raise UsageError(
                f"An exported program must take images of shape {shape[1:]}, but does not:"
                f" {first_line(error)}."
            ) from error
        if not isinstance(outputs, Tensor):
            raise UsageError(
                "An exported program must return one tensor of logits, but returns a"
                f" {type(outputs).__name__}; export a network that does."
            )
        if images._version or any(weight._version != before for weight, before in run.weights.values()):
            raise IntegrityError(
                "An exported program must leave its images and weights as they are, but writes to them;"
                " export a network in evaluation mode that does not."
            )
        return tuple(outputs.shape)


class _DryRun(fx.Interpreter):
    """Interpreter of a graph whose weights are replaced by tensors without data.

    Attributes:
        weights: For each weight that was used, its replacement and that one's version before the run.
    """

    def __init__(self, program: fx.GraphModule, fake: FakeTensorMode) -> None:
        super().__init__(program)
        self.fake = fake
        self.weights: dict[str, tuple[Tensor, int]] = {}

    def fetch_attr(self, target: str) -> Any:
        if target not in self.weights:
            weight = super().fetch_attr(target)
            if not isinstance(weight, Tensor):
                return weight
            replacement = self.fake.from_tensor(weight)
            self.weights[target] = (replacement, replacement._version)
        return self.weights[target][0]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for value in tree_leaves(result):
            if isinstance(value, int | float) and not abs(value) < _LARGEST_SIZE and not math.isinf(value):
                raise _too_large(n.name)
        return result


class _BoundedMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses tensors that are too large, also those within an operator.

    Args:
        batch: Number of images.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bound = _LARGEST_TENSOR * batch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if any(size > self.bound for size in _sizes(result)):
            raise _too_large(str(func))
        return result


def _sizes(result: Any) -> Iterator[int]:
    """Yield the bytes of each tensor in ``result``, as if it had memory of its own."""
    for value in tree_leaves(result):
        if isinstance(value, Tensor):
            yield value.numel() * value.element_size()


def _too_large(place: str) -> IntegrityError:
    return IntegrityError(
        f"An exported program must need at most {_LARGEST_TENSOR >> 20} MB for one tensor of an image, but"
        f" {place} needs more; export it for smaller images."
    )
