from itertools import product
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lineage.data.augmentation import Augmentation, Normalisation, crop_and_flip, random_bits

MASK = 2**64 - 1


def finalise(bits: int) -> int:
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & MASK
    return bits ^ (bits >> 31)


def reference_view(image: np.ndarray, bits: int, augmentation: Augmentation) -> np.ndarray:
    padding = augmentation.crop_padding
    mode = "reflect" if augmentation.padding_mode == "reflect" else "constant"
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
    top, left = (bits >> 40) % (2 * padding + 1), (bits >> 16 & 0xFFFFFF) % (2 * padding + 1)
    view = padded[top : top + image.shape[0], left : left + image.shape[1]]
    return view[:, ::-1] if augmentation.flip and bits & 1 else view


@pytest.mark.parametrize("seed", [0, 1, -7, 2**63, 2**70 + 3])
def test_random_bits_are_splitmix64(seed: int) -> None:
    indices = torch.tensor([0, 1, 2, 49_999, 2**40])
    for epoch in (0, 1, 500):
        state = finalise((seed + 0x9E3779B97F4A7C15) & MASK)
        state = finalise((state + (epoch + 1) * 0x9E3779B97F4A7C15) & MASK)
        expected = [finalise((state + (i + 1) * 0x9E3779B97F4A7C15) & MASK) for i in indices.tolist()]
        bits = random_bits(seed, torch.tensor(epoch), indices)
        assert [value & MASK for value in bits.tolist()] == expected


def test_first_random_bits_are_those_of_the_published_generator() -> None:
    # splitmix64.c seeded with 0 gives this first.
    assert finalise(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(
    ("padding", "mode", "flip", "shape"),
    list(product([0, 1, 4], ["reflect", "zeros"], [False, True], [(8, 8, 1), (7, 10, 3)])),
)
def test_views_equal_padding_and_slicing_one_by_one(
    padding: int, mode: Literal["reflect", "zeros"], flip: bool, shape: tuple[int, int, int]
) -> None:
    augmentation = Augmentation(padding, mode, flip)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (40, *shape), dtype=np.uint8))
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:32]
    bits = random_bits(3, torch.tensor(2), rows)
    views = crop_and_flip(pixels, rows, bits, augmentation)
    for view, row, value in zip(views, rows.tolist(), bits.tolist(), strict=True):
        expected = reference_view(pixels[row].numpy(), value & MASK, augmentation)
        np.testing.assert_array_equal(view.numpy(), expected)


def test_crops_and_flips_are_uniform_and_independent() -> None:
    # A lone bright pixel tells where the crop lies, and a second one beside it tells a flip.
    pixels = torch.zeros((1, 21, 21, 1), dtype=torch.uint8)
    pixels[0, 10, 10], pixels[0, 10, 11] = 1, 2
    number = 40_000
    rows = torch.zeros(number, dtype=torch.int64)
    bits = random_bits(0, torch.tensor(0), torch.arange(number))
    views = crop_and_flip(pixels, rows, bits, Augmentation(4, "zeros", flip=True)).squeeze(-1)
    first, second = ((views == value).flatten(1).int().argmax(1) for value in (1, 2))
    flipped = second < first
    column = torch.where(flipped, 20 - first % 21, first % 21)
    places = (first // 21 - 6) * 9 + column - 6
    counts = torch.bincount(places * 2 + flipped, minlength=162)
    assert len(counts) == 162
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_normalisation_is_that_of_the_data() -> None:
    pixels = torch.randint(
        0, 256, (5, 4, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    images = Normalisation(mean, std, 4, 6)(pixels)
    expected = (pixels.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(images.double(), expected.permute(0, 3, 1, 2), atol=1e-6, rtol=0)
    assert images.is_contiguous(memory_format=torch.channels_last)
