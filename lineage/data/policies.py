"""Augmentation of one image at a time, by torchvision or by an installed package.

What happens here draws from the CPU's global generator, which is set anew for every view: a view remains a
pure function of (data seed, view, sample index).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lineage.errors import RecipeError
from lineage.extensions import resolve, typed_options
from lineage.formats import first_line

if TYPE_CHECKING:
    from torchvision.transforms import v2

_TRIES = 8

Policy = Callable[[Tensor], Tensor]
"""From an image, uint8 (C, H, W), to one of the same shape and type; draws from torch's global generator."""


def _build_trivial(*, num_magnitude_bins: int = 31) -> Policy:
    from torchvision.transforms import v2

    policy: Policy = v2.TrivialAugmentWide(num_magnitude_bins)
    return policy


def _build_rand(*, num_ops: int = 2, magnitude: int = 9) -> Policy:
    from torchvision.transforms import v2

    policy: Policy = v2.RandAugment(num_ops, magnitude)
    return policy


AUGMENTATIONS: dict[str, Callable[..., Policy]] = {"trivial": _build_trivial, "rand": _build_rand}
"""Builders of policies: TrivialAugment (Müller and Hutter, ICCV 2021), RandAugment (Cubuk et al., 2020)."""


def policy_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a policy with the types and defaults of its builder's signature.

    Args:
        name: Key of ``AUGMENTATIONS``, or ``package:name`` of an installed package.
        options: Values by name.

    Raises:
        RecipeError: If the policy is unknown, takes no such option, or an option has another type.
    """
    builder = resolve("augmentation", name, AUGMENTATIONS)
    return typed_options(f"The policy '{name}'", "data.augment.options", builder, options)


def build_policy(name: str, options: Mapping[str, Any], shape: tuple[int, int, int]) -> Policy:
    """Return a policy that has been tried on a made-up image.

    Args:
        name: Key of ``AUGMENTATIONS``, or ``package:name`` of an installed package.
        options: Values by name.
        shape: Shape (C, H, W) of the images.

    Raises:
        RecipeError: If it cannot be built, fails, returns anything but an image of the same shape and type,
            or draws random numbers elsewhere than from torch's generator.
    """
    checked = policy_options(name, options)
    try:
        policy: Policy = resolve("augmentation", name, AUGMENTATIONS)(**checked)
        found = _fault_of(policy, shape)
    except Exception as error:  # a package's policy is any code
        found = f"fails: {first_line(error)}"
    if found:
        raise RecipeError(
            f"The policy '{name}' must turn a uint8 image {shape} into another one, but with the options"
            f" {checked or '{}'} it {found}; correct data.augment.options, or choose another policy."
        )
    return policy


def _fault_of(policy: Policy, shape: tuple[int, int, int]) -> str:
    """Return what a policy does wrong; "" if nothing."""
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seeds = torch.arange(_TRIES)
    first, second = (transform_each([image.clone() for _ in seeds], policy, seeds) for _ in range(2))
    if first.shape[1:] != image.shape or first.dtype != image.dtype:
        kind = str(first.dtype).removeprefix("torch.")
        return f"returns {kind} {tuple(first.shape[1:])}"
    if not torch.equal(first, second):
        return "gives two images for one seed of torch's generator, from which alone it may draw"
    return ""


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
