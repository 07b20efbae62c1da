"""Networks made of networks: ensembles, and networks fitted to data that are normalised differently."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lineage.data.imagenet import same_classes
from lineage.data.images import DataSpec
from lineage.errors import IntegrityError


class EnsembleNetwork(nn.Module):
    """The weighted mean of several networks' probabilities, as logits.

    Its logits are the logarithm of the mean, so that their softmax is the mean itself: an ensemble is
    evaluated, served and learned from like any other network.

    Args:
        members: Networks that take the same normalised images.
        weights: One for each member, positive; they are scaled to sum to 1.
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        scaled = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", (scaled / scaled.sum()).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, C, H, W)."""
        stacked = torch.stack([member(images).float().softmax(1) for member in self.members])
        mean = torch.einsum("m,mbc->bc", self.weights, stacked)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class Renormalised(nn.Module):
    """A network that is given images normalised for other data than its own.

    Args:
        network: What sees the images.
        own: Data it was trained on.
        given: Data whose mean and deviation the images were normalised with.
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
        """Logits (B, classes) of images (B, C, H, W) that were normalised for the other data."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def fit_to_data(network: nn.Module, own: DataSpec, data: DataSpec, who: str) -> nn.Module:
    """``network`` as it can be used on ``data``: a different normalisation is converted, not ignored.

    Args:
        network: A teacher or a member of an ensemble.
        own: What it was trained on.
        data: What it will see.
        who: What errors call it.

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
            f" '{data.name}' has {data.input_shape}."
        )
    if (own.mean, own.std) == (data.mean, data.std):
        return network
    return Renormalised(network, own, data).eval()


def _first_difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, str]:
    """What stands in each where they first differ."""
    for index in range(max(len(ours), len(theirs))):
        pair = [names[index] if index < len(names) else None for names in (ours, theirs)]
        if pair[0] != pair[1]:
            named = [
                f"class {index} is {name!r}" if name is not None else f"no class {index}" for name in pair
            ]
            return named[0], named[1]
    return "", ""
