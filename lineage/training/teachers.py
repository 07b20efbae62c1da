"""A student's teacher: a frozen network that runs on every batch, or its stored soft targets."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from lineage.models.stages import StagedNetwork
from lineage.training.engines import freeze
from lineage.training.likeness import measure_likeness
from lineage.training.losses import at_least_float32
from lineage.training.measurement import Subset, measure
from lineage.training.soft_targets import StoredSoftTargets, SubsetName

_PROBE_SIZE = 2
_LARGEST_DIFFERENCE = 1e-4  # of a folded network's logits, to the largest; 1e-6 is usual in float32


class Teacher(Protocol):
    """Source of a student's soft targets."""

    def logits(self, images: Tensor, stored: Sequence[Tensor]) -> Tensor:
        """Return logits (B, C), float32 or wider, for a batch of views.

        Args:
            images: Views that the student sees, normalised, shape (B, channels, H, W).
            stored: Stored soft targets that the batch carries; empty for a live teacher.
        """

    def teach(self, images: Tensor, stored: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return logits as ``logits`` does, and feature maps (B, D, H, W) for terms of the loss, if any."""

    def predictions(self, name: SubsetName, subset: Subset) -> Tensor:
        """Return the predicted classes, int64, by row of ``subset.images``; other rows are zero."""

    def likeness(self, student: nn.Module, subset: Subset) -> dict[str, float]:
        """Return how alike the student's features and explanations are, as ``measure_likeness`` does."""


class LiveTeacher:
    """Teacher that runs on every batch.

    Args:
        accelerator: Accelerator of the processes to use.
        network: Network of the previous generation, of which a frozen copy with folded BatchNorm is used.
        input_shape: (channels, H, W) of an image.
        stages: Names of the submodules whose feature maps the terms of the loss take.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        input_shape: tuple[int, int, int],
        stages: Sequence[str] = (),
    ) -> None:
        self.accelerator = accelerator
        self._whole = network  # a folded one has no stages
        self.network = freeze(fold(network, input_shape, stages), accelerator.device)
        self._staged = StagedNetwork(self.network, stages) if stages else None

    def logits(self, images: Tensor, stored: Sequence[Tensor] = ()) -> Tensor:
        """See ``Teacher``; runs under the student's autocast and is upcast afterwards."""
        with torch.inference_mode(), self.accelerator.autocast():
            logits: Tensor = self.network(images)
        return at_least_float32(logits).clone()  # a clone may be saved for backward, an inference tensor not

    def teach(self, images: Tensor, stored: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """See ``Teacher``."""
        if self._staged is None:
            return self.logits(images, stored), []
        with torch.no_grad(), self.accelerator.autocast():
            logits, maps = self._staged(images)
        return at_least_float32(logits), maps

    def predictions(self, name: SubsetName, subset: Subset) -> Tensor:
        """See ``Teacher``; one pass, in float32."""
        return measure(self.accelerator, self.network, subset, keep_logits=True).logits.argmax(1)

    def likeness(self, student: nn.Module, subset: Subset) -> dict[str, float]:
        """See ``Teacher``."""
        return measure_likeness(self.accelerator, student, self._whole, subset)


class StoredTeacher:
    """Teacher whose soft targets are stored; its network is neither loaded nor run.

    Args:
        soft_targets: Stored soft targets of the same views and images.
    """

    def __init__(self, soft_targets: StoredSoftTargets) -> None:
        self.soft_targets = soft_targets

    def logits(self, images: Tensor, stored: Sequence[Tensor]) -> Tensor:
        """See ``Teacher``."""
        return self.soft_targets.format.decode(stored)

    def teach(self, images: Tensor, stored: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See ``Teacher``; there are no feature maps."""
        return self.logits(images, stored), []

    def predictions(self, name: SubsetName, subset: Subset) -> Tensor:
        """See ``Teacher``."""
        rows = torch.zeros(len(subset.images), dtype=torch.int64)
        rows[subset.indices] = self.soft_targets.predictions(name)
        return rows

    def likeness(self, student: nn.Module, subset: Subset) -> dict[str, float]:
        """See ``Teacher``; nothing is known of the network."""
        return {}


def fold(network: nn.Module, input_shape: tuple[int, int, int], kept: Sequence[str] = ()) -> nn.Module:
    """Return a copy for inference, with BatchNorm folded into the convolutions before it.

    In evaluation BatchNorm is one factor and one offset a channel, which the convolution can apply itself
    (``torch.nn.utils.fusion``). What torch.fx cannot trace stays as it is, and so does a network whose copy
    gives other logits on a few random images.

    Args:
        network: Network to copy; it is put into evaluation mode.
        input_shape: (channels, H, W) of an image.
        kept: Names of submodules that the copy has as well, with the same outputs.
    """
    folded = _fold_parts(network.eval(), kept)
    probe = torch.randn(_PROBE_SIZE, *input_shape, generator=torch.Generator().manual_seed(0))
    parameter = next(network.parameters(), None)
    if parameter is not None:
        probe = probe.to(parameter.device)
    with torch.inference_mode():
        try:
            expected, found = network(probe), folded(probe)
        except (AttributeError, TypeError, RuntimeError):  # code outside a module's forward pass was used
            return copy.deepcopy(network)
    close = (expected - found).abs().amax() <= _LARGEST_DIFFERENCE * expected.abs().amax().clamp_min(1)
    return folded if close else copy.deepcopy(network)


def _fold_parts(network: nn.Module, kept: Sequence[str] = ()) -> nn.Module:
    """Fold the whole network, or else each of its modules; those that are kept stay modules of their own."""
    if not kept:
        with suppress(Exception):  # traced code may raise anything when it is given proxies
            return fuse(network)
    copied = copy.deepcopy(network)
    for name, part in network.named_children():
        inside = [path.removeprefix(f"{name}.") for path in kept if path.startswith(f"{name}.")]
        setattr(copied, name, _fold_parts(part, inside))
    return copied
