"""Mixing of views in pairs: mixup and CutMix, in exact arithmetic, so that bits agree on all machines.

A view is mixed with the same view of another training image. Partner, weight and place are further words of
the view's random bits: like the view itself, they depend on neither the batch nor the number of processes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lineage.data.augmentation import further_bits

_ONE = 1 << 16


@dataclass(frozen=True)
class Mixture:
    """What the views of a batch are mixed with, and how.

    Attributes:
        partners: Position of each view's partner among the training images, int64, shape (B,).
        weights: Weight of the own view in 2⁻¹⁶, int64, shape (B,).
        pasting: Where a rectangle is pasted; None where no view gets one.
    """

    partners: Tensor
    weights: Tensor
    pasting: "Pasting | None" = None


@dataclass(frozen=True)
class Pasting:
    """Which views get a rectangle (CutMix) instead of a blend of all pixels (mixup), and where.

    Attributes:
        chosen: Whether a view gets one, shape (B,).
        middle: Its centre, vertical and horizontal, in 2⁻²⁴ of the edge, int64, each of shape (B,).
    """

    chosen: Tensor
    middle: tuple[Tensor, Tensor]


class Mixing:
    """Mixing of views; where both ways are on, each view gets either with probability 1/2.

    Args:
        mixup: α of mixup (Zhang et al., ICLR 2018): the weight of the own view is drawn from Beta(α, α); 0
            turns it off.
        cutmix: α of CutMix (Yun et al., ICCV 2019), likewise; one of the two must be on.
    """

    def __init__(self, mixup: float, cutmix: float) -> None:
        self.mixup = mixup
        self.cutmix = cutmix
        self.tables = [beta_quantiles(alpha) for alpha in (mixup or cutmix, cutmix or mixup)]

    def draw(self, bits: Tensor, num_samples: int) -> Mixture:
        """Return what views with random ``bits``, int64 (B,), are mixed with."""
        word = further_bits(bits, 1)
        partners = ((word >> 16) & (2**48 - 1)) % num_samples
        quantile = word & 0xFFFF
        if not self.cutmix:
            return Mixture(partners, self.tables[0][quantile])
        word = further_bits(bits, 2)
        chosen = word & 1 == 1 if self.mixup else torch.ones_like(word, dtype=torch.bool)
        weights = torch.where(chosen, self.tables[1][quantile], self.tables[0][quantile])
        return Mixture(partners, weights, Pasting(chosen, ((word >> 16) & 0xFFFFFF, (word >> 40) & 0xFFFFFF)))

    def mix(self, own: Tensor, other: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """Return mixed views and the share that the own label has in each.

        A blended pixel is ``(w · own + (2¹⁶ - w) · other + 2¹⁵) >> 16``. Its steps are integers below 2²⁴ in
        units of 2⁻¹⁶, which float32 holds exactly and computes faster. A pasted rectangle has the share
        1 - w/2¹⁶ of the area, but for what lies outside the image; its label has the share of what is seen.

        Args:
            own: Views, uint8, shape (B, H, W, C).
            other: Views of the partners, likewise.
            mixture: What ``draw`` returned for these views.

        Returns:
            Views, integers from 0 to 255 as float32, shape (B, H, W, C), and shares, float32, shape (B,).
        """
        share = mixture.weights.float() / _ONE
        weights = share[:, None, None]
        if mixture.pasting is not None:
            chosen, (height, width, channels) = mixture.pasting.chosen, own.shape[1:]
            y, x = _rectangles(mixture.weights, mixture.pasting, height, width)
            kept = 1 - (y.sum(1) * x.sum(1)).float() / (height * width)
            share = torch.where(chosen, kept, share)
            outside = ~(y[:, :, None] & x.repeat_interleave(channels, 1)[:, None, :])  # (B, H, W · C)
            weights = torch.where(chosen[:, None, None], outside.float(), weights)
        rest = other.flatten(2).float()
        mixed = own.flatten(2).float().sub_(rest).mul_(weights).add_(0.5).floor_().add_(rest)
        return mixed.view(own.shape), share


@lru_cache(maxsize=8)
def beta_quantiles(alpha: float) -> Tensor:
    """Return 2¹⁶ quantiles of Beta(α, α) in ascending order, in units of 2⁻¹⁶, int64."""
    from scipy.special import betaincinv

    places = (np.arange(_ONE) + 0.5) / _ONE
    quantiles = np.rint(betaincinv(alpha, alpha, places) * _ONE)
    return torch.from_numpy(np.minimum(quantiles, _ONE - 1).astype(np.int64))


def soft_labels(labels: Tensor, partners: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """Return the classes' shares in mixed views.

    Args:
        labels: Class of each own view, int64, shape (B,).
        partners: Class of each partner, int64, shape (B,).
        share: Share of the own label, float32, shape (B,).
        num_classes: Number C of classes.

    Returns:
        Labels, float32, shape (B, C), which add up to 1.
    """
    soft = torch.zeros(len(labels), num_classes)
    soft.scatter_(1, labels[:, None], share[:, None])
    return soft.scatter_add_(1, partners[:, None], 1 - share[:, None])


def _rectangles(weights: Tensor, pasting: Pasting, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return which lines, bool (B, H), and which columns, bool (B, W), the rectangles cover."""
    # float64's square root is rounded correctly, so the same everywhere
    edge = (_ONE - weights).double().sqrt()  # in 2⁻⁸ of the image's
    covered = []
    for size, place in zip((height, width), pasting.middle, strict=True):
        half = (size * edge / 512).long()[:, None]
        middle = (place * size >> 24)[:, None]
        pixels = torch.arange(size)
        covered.append((pixels >= middle - half) & (pixels < middle + half))
    return covered[0], covered[1]
