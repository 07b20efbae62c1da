"""Random augmentation of images, as a pure function of (data seed, view, sample index).

The random bits of a view are a hash of these three numbers, not draws from a generator. A view is therefore
the same in every batch and for any number of workers and processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lineage.data.images import DataSpec
from lineage.data.policies import Policy, build_erasing, build_policy

if TYPE_CHECKING:
    from torchvision.transforms import v2

_GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_FIRST_FACTOR = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND_FACTOR = -7723592293110705685  # 0x94D049BB133111EB

EVALUATION_SCALE = 256 / 224
"""Ratio of resized edge to centre crop when a streamed image is evaluated."""


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of an image, resized to the network's input (Szegedy et al., CVPR 2015).

    Attributes:
        scale: Least and largest share of the image's area.
        ratio: Least and largest ratio of width to height.
    """

    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random augmentation of training images, in the order in which they are applied.

    Attributes:
        crop_padding: Pixels of padding on each side before a random crop of the original size; 0 disables
            the crop. Images in memory alone.
        padding_mode: Content of the padding: the image mirrored at its border pixels, or black.
        flip: Whether each view is mirrored horizontally with probability 1/2.
        resized_crop: Random resized crop; None for that of ``ResizedCrop()`` where images are streamed, and
            none where they are in memory.
        policy: Name of a policy, see ``AUGMENTATIONS``; None for none.
        policy_options: Options of its builder by name.
        erasing: Probability of a rectangle in the mean colour.
        mixup: α of mixup; 0 turns it off.
        cutmix: α of CutMix; 0 turns it off.
    """

    crop_padding: int = 0
    padding_mode: Literal["reflect", "zeros"] = "reflect"
    flip: bool = False
    resized_crop: ResizedCrop | None = None
    policy: str | None = None
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether views are mixed in pairs, so that labels are soft."""
        return self.mixup > 0 or self.cutmix > 0


def random_bits(seed: int, views: Tensor, indices: Tensor) -> Tensor:
    """Return 64 random bits per sample: the SplitMix64 finaliser over seed, view and index.

    Source: G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014,
    with the constants of Vigna's splitmix64.c.

    Args:
        seed: Data seed, any integer; taken modulo 2⁶⁴.
        views: View numbers, int64, shape (B,) or ().
        indices: Sample indices, int64, shape (B,).

    Returns:
        Uniform bits, int64, shape (B,).
    """
    state = _finalise(torch.tensor(_signed(seed)) + _GOLDEN_GAMMA)
    state = _finalise(state + (views + 1) * _GOLDEN_GAMMA)
    return _finalise(state + (indices + 1) * _GOLDEN_GAMMA)


def further_bits(bits: Tensor, number: int) -> Tensor:
    """Return the ``number``-th word, from 1, of the SplitMix64 generators whose states are ``bits``."""
    return _finalise(bits + _signed(number * _GOLDEN_GAMMA))


def crop_and_flip(pixels: Tensor, rows: Tensor, bits: Tensor, augmentation: Augmentation) -> Tensor:
    """Return augmented views of a batch, gathered from the whole data set in one step.

    Padding, crop and flip only move pixels, so together they are one computation of source coordinates: first
    of whole lines, then within them.

    Args:
        pixels: All images, uint8, shape (N, H, W, C).
        rows: Indices of the images in the batch, int64, shape (B,).
        bits: Random bits of each view, int64, shape (B,).
        augmentation: Settings; the padding must be less than H and W.

    Returns:
        Augmented images, uint8, shape (B, H, W, C).
    """
    _, height, width, channels = pixels.shape
    padding, num_places = augmentation.crop_padding, 2 * augmentation.crop_padding + 1
    # Bits 40..63 place the crop vertically, 16..39 horizontally, bit 0 flips.
    top = _shift(bits, 40) % num_places
    left = (_shift(bits, 16) & 0xFFFFFF) % num_places
    across = torch.arange(width).expand(len(rows), width)
    if augmentation.flip:
        across = torch.where((bits & 1 == 1)[:, None], across.flip(1), across)
    y, inside_y = _fold(torch.arange(height) + top[:, None] - padding, height)  # (B, H)
    x, inside_x = _fold(across + left[:, None] - padding, width)  # (B, W)
    lines = pixels.view(-1, width * channels).index_select(0, (rows[:, None] * height + y).flatten())
    lines = lines.view(-1, height, width * channels)
    places = (x[:, :, None] * channels + torch.arange(channels)).flatten(1)  # (B, W · C)
    views = lines.gather(2, places[:, None, :].expand_as(lines))
    if augmentation.padding_mode == "zeros" and padding:
        views *= inside_x.view(torch.uint8).repeat_interleave(channels, 1)[:, None, :]
        views *= inside_y.view(torch.uint8)[:, :, None]
    return views.view(-1, height, width, channels)


def streamed_transform(spec: DataSpec, augmentation: Augmentation | None) -> "v2.Transform":
    """Return a transform from one decoded image of any size, uint8 (C, H, W), to the size of the input.

    Args:
        spec: Data spec with the input shape and the mean.
        augmentation: Settings of the augmentation; None resizes and takes the centre crop.
    """
    from torchvision.transforms import v2

    size = spec.input_shape[1:]
    if augmentation is None:
        resized = v2.Resize(round(min(size) * EVALUATION_SCALE), antialias=True)
        return v2.Compose([resized, v2.CenterCrop(size)])
    steps = [_resized_crop(size, augmentation.resized_crop or ResizedCrop())]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, *_further_steps(spec, augmentation)])


def memory_transform(spec: DataSpec, augmentation: Augmentation) -> "v2.Transform | None":
    """Return a transform of one image, uint8 (C, H, W), after ``crop_and_flip``; None if there is none."""
    steps = _further_steps(spec, augmentation)
    if augmentation.resized_crop is not None:
        steps.insert(0, _resized_crop(spec.input_shape[1:], augmentation.resized_crop))
    if not steps:
        return None
    from torchvision.transforms import v2

    return v2.Compose(steps)


def _resized_crop(size: tuple[int, int], crop: ResizedCrop) -> Policy:
    from torchvision.transforms import v2

    made: Policy = v2.RandomResizedCrop(size, crop.scale, crop.ratio, antialias=True)
    return made


def _further_steps(spec: DataSpec, augmentation: Augmentation) -> list[Policy]:
    """Return what is done with one image of the input's size."""
    steps: list[Policy] = []
    if augmentation.policy is not None:
        steps.append(build_policy(augmentation.policy, augmentation.policy_options, spec.input_shape))
    if augmentation.erasing:
        steps.append(build_erasing(augmentation.erasing, spec.mean))
    return steps


class Normalisation:
    """Normalises uint8 pixels channel by channel to mean 0 and standard deviation 1, in float32.

    Factor and offset are repeated for every pixel, so that one multiply-add runs along whole images instead
    of along their few channels.

    Args:
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], height: int, width: int) -> None:
        means, deviations = (torch.tensor(value, dtype=torch.float64) for value in (mean, std))
        self.factor = (1 / (255 * deviations)).float().repeat(height * width)
        self.offset = (-means / deviations).float().repeat(height * width)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            pixels: Images, integers from 0 to 255, uint8 or float32, shape (B, H, W, C), contiguous; they may
                be overwritten.

        Returns:
            Normalised images, float32, shape (B, C, H, W), in channels_last memory format.
        """
        flat = pixels.flatten(1).float().mul_(self.factor).add_(self.offset)
        return flat.view(pixels.shape).permute(0, 3, 1, 2)


def _fold(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mirror coordinates outside 0..size - 1 at the border pixels; also return which ones lay inside."""
    last = size - 1
    folded = last - (last - places.abs()).abs()
    return folded, folded == places


def _finalise(bits: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser; products wrap around, shifts fill with zeros."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST_FACTOR
    bits = (bits ^ _shift(bits, 27)) * _SECOND_FACTOR
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, places: int) -> Tensor:
    """Shift int64 to the right by ``places`` bits as if it were unsigned."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    """Return the int64 whose bits are ``value`` modulo 2⁶⁴."""
    return (value + 2**63) % 2**64 - 2**63
