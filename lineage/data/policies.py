"""Augmentation of one image at a time, by torchvision or by an installed package.

What happens here draws from the CPU's global generator, which is set anew for every view: a view remains a
pure function of (data seed, view, sample index).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lineage.extensions import resolve

if TYPE_CHECKING:
    from torchvision.transforms import v2

Policy = Callable[[Tensor], Tensor]
"""From an image, uint8 (C, H, W), to one of the same shape and type; draws from torch's global generator."""


def _build_trivial() -> Policy:
    from torchvision.transforms import v2

    policy: Policy = v2.TrivialAugmentWide()
    return policy


def _build_rand() -> Policy:
    from torchvision.transforms import v2

    policy: Policy = v2.RandAugment()
    return policy


AUGMENTATIONS: dict[str, Callable[..., Policy]] = {"trivial": _build_trivial, "rand": _build_rand}
"""Builders of policies: TrivialAugment (Müller and Hutter, ICCV 2021), RandAugment (Cubuk et al., 2020)."""


def build_policy(name: str) -> Policy:
    """Return the policy of a name.

    Args:
        name: Key of ``AUGMENTATIONS``.

    Raises:
        RecipeError: If there is none of that name.
    """
    policy: Policy = resolve("augmentation", name, AUGMENTATIONS)()
    return policy


def build_erasing(probability: float, mean: Sequence[float]) -> "v2.Transform":
    """Return a transform that fills a random rectangle with the mean colour (Zhong et al., AAAI 2020).

    The rectangle has 2 % to 33 % of the area, as in torchvision; the colour is 0 once it is normalised, up to
    the rounding to 8 bits.

    Args:
        probability: Share of the views that it changes.
        mean: Mean of each channel, for pixels in [0, 1].
    """
    from torchvision.transforms import v2

    return v2.RandomErasing(probability, value=[float(round(255 * value)) for value in mean])


def transform_each(images: Iterable[Tensor], transform: Policy, seeds: Tensor) -> Tensor:
    """Return transformed images as one tensor, each drawn with a seed of its own.

    Args:
        images: Images, uint8, each of shape (C, H, W).
        transform: Transform of one image.
        seeds: Seed of the generator for each image, int64, shape (B,).

    Returns:
        Images of shape (B, C, H', W'), uint8.
    """
    # torchvision draws from the CPU's global generator. torch.manual_seed would also reseed the GPUs'
    # generators, from which the model draws.
    with torch.random.fork_rng(devices=[]):
        shown = []
        for image, seed in zip(images, seeds.tolist(), strict=True):
            torch.default_generator.manual_seed(seed)
            shown.append(transform(image))
    return torch.stack(shown)
