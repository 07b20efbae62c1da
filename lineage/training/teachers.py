"""A student's teacher: a frozen network that sees what the student sees, or what it said of that before."""

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from lineage.training.engines import freeze
from lineage.training.losses import at_least_float32
from lineage.training.measurement import Subset, measure
from lineage.training.soft_targets import StoredSoftTargets, SubsetName

_PROBE_SIZE = 2
_LARGEST_DIFFERENCE = 1e-4  # of a folded network's logits, to the largest; 1e-6 is usual in float32


class Teacher(Protocol):
    """What gives a student its soft targets."""

    def logits(self, images: Tensor, stored: Sequence[Tensor]) -> Tensor:
        """Logits (B, C), float32 or more, for a batch of views.

        Args:
            images: The very views that the student sees, normalised, (B, channels, H, W).
            stored: What the batch holds beside images, labels and indices.
        """

    def predictions(self, name: SubsetName, part: Subset) -> Tensor:
        """The classes it predicts for a part, int64, by row of the part's images; other rows are zero."""


class LiveTeacher:
    """A network that looks at every batch itself.

    Args:
        accelerator: The processes to use.
        network: Of the generation before; a frozen copy of it, with BatchNorm folded in, does the work.
        input_shape: (channels, H, W) of an image.
    """

    def __init__(
        self, accelerator: Accelerator, network: nn.Module, input_shape: tuple[int, int, int]
    ) -> None:
        self.accelerator = accelerator
        self.network = freeze(fold(network, input_shape), accelerator.device)

    def logits(self, images: Tensor, stored: Sequence[Tensor] = ()) -> Tensor:
        """See ``Teacher``; under autocast as the student, upcast afterwards."""
        with torch.inference_mode(), self.accelerator.autocast():
            logits: Tensor = self.network(images)
        return at_least_float32(logits).clone()  # a clone may be saved for backward, an inference tensor not

    def predictions(self, name: SubsetName, part: Subset) -> Tensor:
        """See ``Teacher``; one pass, in float32."""
        seen = measure(self.accelerator, self.network, part, keep_logits=True)
        return seen.logits.argmax(1)


class StoredTeacher:
    """What a network said of every view before: it is neither loaded nor run.

    Args:
        soft targets: For the views and images of the training at hand.
    """

    def __init__(self, soft_targets: StoredSoftTargets) -> None:
        self.soft_targets = soft_targets

    def logits(self, images: Tensor, stored: Sequence[Tensor]) -> Tensor:
        """See ``Teacher``."""
        return self.soft_targets.format.decode(stored)

    def predictions(self, name: SubsetName, part: Subset) -> Tensor:
        """See ``Teacher``."""
        rows = torch.zeros(len(part.images), dtype=torch.int64)
        rows[part.indices] = self.soft_targets.predictions(name)
        return rows


def fold(network: nn.Module, input_shape: tuple[int, int, int]) -> nn.Module:
    """A copy for inference, with BatchNorm folded into the convolutions before it.

    In evaluation BatchNorm is one factor and one offset a channel, which the convolution can apply itself
    (``torch.nn.utils.fusion``). What torch.fx cannot trace stays as it is, and so does a network whose copy
    gives other logits on a few random images.

    Args:
        network: Left as it is, but in evaluation mode afterwards.
        input_shape: (channels, H, W) of an image.
    """
    folded = _fold_parts(network.eval())
    probe = torch.randn(_PROBE_SIZE, *input_shape, generator=torch.Generator().manual_seed(0))
    parameter = next(network.parameters(), None)
    if parameter is not None:
        probe = probe.to(parameter.device)
    with torch.inference_mode():
        try:
            expected, found = network(probe), folded(probe)
        except (AttributeError, TypeError, RuntimeError):  # a part was asked for more than its forward pass
            return copy.deepcopy(network)
    close = (expected - found).abs().amax() <= _LARGEST_DIFFERENCE * expected.abs().amax().clamp_min(1)
    return folded if close else copy.deepcopy(network)


def _fold_parts(network: nn.Module) -> nn.Module:
    """Fold the whole, or else each of its parts."""
    try:
        return fuse(network)
    except Exception:  # traced code may raise anything when it is given proxies
        copied = copy.deepcopy(network)
        for name, part in network.named_children():
            setattr(copied, name, _fold_parts(part))
        return copied
