"""A student's teacher: a frozen network that runs on every batch, or its stored soft targets."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse

from lineage.models.stages import StagedNetwork, map_shapes
from lineage.training.engines import freeze
from lineage.training.explanation import explain
from lineage.training.likeness import measure_likeness
from lineage.training.losses import at_least_float32
from lineage.training.maps import Features, Shape
from lineage.training.measurement import Subset, collect
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
        """Return the classes predicted for the subset's samples, int64 (N,), in their order."""

    def likeness(self, student: nn.Module, subset: Subset) -> dict[str, float]:
        """Return how alike the student's features and explanations are, as ``measure_likeness`` does."""


class LiveTeacher:
    """Teacher that runs on every batch.

    Args:
        accelerator: Accelerator of the processes to use.
        network: Network of the previous generation, of which a frozen copy with folded BatchNorm is used.
        input_shape: (channels, H, W) of an image.
        stages: Names of the submodules whose feature maps the terms of the loss take.
        explained: For each stage whose maps give way to explanations, by its position among the stages, the
            network's linear layer on their means; None to differentiate the logits.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        input_shape: Shape,
        stages: Sequence[str] = (),
        explained: Mapping[int, nn.Linear | None] = MappingProxyType({}),
    ) -> None:
        self.accelerator = accelerator
        self._whole = network  # a folded one has no stages
        self.network = freeze(fold(network, input_shape, stages), accelerator.device)
        self._heads = {index: copy.deepcopy(head) for index, head in explained.items()}
        for head in self._heads.values():
            if head is not None:
                freeze(head, accelerator.device)
        self._differentiates = None in self._heads.values()
        self._staged = StagedNetwork(self.network, stages, leaves=self._differentiates) if stages else None

    def logits(self, images: Tensor, stored: Sequence[Tensor] = ()) -> Tensor:
        """See ``Teacher``; runs under the student's autocast and is upcast afterwards."""
        with torch.inference_mode(), self.accelerator.autocast():
            logits: Tensor = self.network(images)
        return at_least_float32(logits).clone()  # a clone may be saved for backward, an inference tensor not

    def teach(self, images: Tensor, stored: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """See ``Teacher``."""
        if self._staged is None:
            return self.logits(images, stored), []
        with torch.set_grad_enabled(self._differentiates), self.accelerator.autocast():
            logits, maps = self._staged(images)
        for index, head in self._heads.items():
            seen = Features(maps[index], logits)
            maps[index] = explain(seen, logits.argmax(1), head)
        return at_least_float32(logits).detach(), [each.detach() for each in maps]

    def explanation_size(self, input_shape: Shape) -> tuple[int, int] | None:
        """Return (H, W) of the explanation that follows its logits where it is stored; None without one."""
        if self._staged is None:
            return None
        ((_, height, width),) = map_shapes(self.network, self._staged.names, input_shape)
        return height, width

    def predictions(self, name: SubsetName, subset: Subset) -> Tensor:
        """See ``Teacher``; one pass, in float32."""
        return collect(
            self.accelerator,
            self.network,
            subset,
            lambda passed: passed["logits"].argmax(1),
            dtype=torch.int64,
        )

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
        """See ``Teacher``; explanations are all that is stored of feature maps."""
        return self.logits(images, stored), self.soft_targets.format.decode_explanation(stored)

    def predictions(self, name: SubsetName, subset: Subset) -> Tensor:
        """See ``Teacher``."""
        return self.soft_targets.predictions(name)

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
            fused = fuse(network)
            if isinstance(fused, GraphModule):
                fused.graph.owning_module = None  # a circle that would keep its weights until collected
            return fused
    copied = copy.deepcopy(network)
    for name, part in network.named_children():
        inside = [path.removeprefix(f"{name}.") for path in kept if path.startswith(f"{name}.")]
        setattr(copied, name, _fold_parts(part, inside))
    return copied
