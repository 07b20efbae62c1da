"""Feature maps of two networks: their shapes, and how they are brought to one size."""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lineage.training.losses import at_least_float32

Shape = tuple[int, int, int]
"""(D, H, W) of a feature map."""


class Features(NamedTuple):
    """What a term of a loss sees of one network.

    Attributes:
        maps: Feature maps of a stage, shape (B, D, H, W).
        logits: Logits of the same images, shape (B, C).
    """

    maps: Tensor
    logits: Tensor


def at_one_size(maps: Tensor, teacher_maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return two networks' maps in float32 or more, each averaged to the smaller height and width."""
    height, width = map(min, zip(maps.shape[2:], teacher_maps.shape[2:], strict=True))
    size = (height, width)
    own, theirs = (
        each if each.shape[2:] == size else adaptive_avg_pool2d(each, size)
        for each in (at_least_float32(maps), at_least_float32(teacher_maps))
    )
    return own, theirs
