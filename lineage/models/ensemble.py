"""Modules that wrap networks: ensembles, and adapters for images normalised differently."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lineage.data.imagenet import same_classes
from lineage.data.images import DataSpec
from lineage.errors import IntegrityError


class EnsembleNetwork(nn.Module):
    """Ensemble whose logits are the logarithm of its members' weighted mean probability.

    The softmax of these logits is the mean itself, so an ensemble is evaluated, served and distilled like any
    other network.

    Args:
        members: Networks that take the same normalised images.
        weights: Positive weight of each member; scaled to sum to 1.
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        scaled = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", (scaled / scaled.sum()).float(), persistent=False)

    def stage_names(self) -> list[str]:
        """Return no stage: members have maps of their own."""
        return []

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) for normalised images (B, C, H, W)."""
        stacked = torch.stack([member(images).float().softmax(1) for member in self.members])
        mean = torch.einsum("m,mbc->bc", self.weights, stacked)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class Renormalised(nn.Module):
    """Adapter for a network whose input is normalised by another data set's mean and standard deviation.

    Args:
        network: Network to adapt.
        own: Data that the network was trained on.
        given: Data whose mean and standard deviation the input was normalised with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, own: DataSpec, given: DataSpec) -> None:
        super().__init__()
        self.network = network
        own_mean, own_std, mean, std = (
            torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
            for values in (own.mean, own.std, given.mean, given.std)
        )
        self.register_buffer("scale", (std / own_std).float(), persistent=False)
        self.register_buffer("shift", ((mean - own_mean) / own_std).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W) normalised for ``given``."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def fit_to_data(network: nn.Module, own: DataSpec, data: DataSpec, who: str) -> nn.Module:
    """Return ``network``, wrapped to convert the normalisation if that of ``data`` differs.

    Args:
        network: Teacher or ensemble member.
        own: Data that the network was trained on.
        data: Data that the network will be used on.
        who: Name of the network in error messages.

    Raises:
        IntegrityError: If classes, their order or the input shape differ.
    """
    if not same_classes(own.class_names, data.class_names):
        ours, theirs = _first_difference(own.class_names, data.class_names)
        raise IntegrityError(
            f"{who} and the data must have the same classes in the same order, but {who} has"
            f" {len(own.class_names)} ({ours}) and '{data.name}' {len(data.class_names)} ({theirs})."
        )
    if own.input_shape != data.input_shape:
        raise IntegrityError(
            f"{who} and the data must have images of one shape, but {who} takes {own.input_shape} and"
            f" '{data.name}' has {data.input_shape}; set data.image_size to a size that both have."
        )
    if (own.mean, own.std) == (data.mean, data.std):
        return network
    return Renormalised(network, own, data).eval()


def _first_difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, str]:
    """Describe the first class in which two lists differ, once for each list."""
    for index in range(max(len(ours), len(theirs))):
        pair = [names[index] if index < len(names) else None for names in (ours, theirs)]
        if pair[0] != pair[1]:
            named = [
                f"class {index} is {name!r}" if name is not None else f"no class {index}" for name in pair
            ]
            return named[0], named[1]
    return "", ""
