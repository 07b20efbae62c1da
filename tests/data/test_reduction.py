"""Images in memory at a smaller size: the mean of each block of pixels, rounded half up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lineage.data.datasets import DataSet, MemoryImages, load_dataset
from lineage.data.images import memory_dataset
from lineage.data.reduction import block_means, reduce_images
from lineage.errors import UsageError
from lineage.evaluation.data_index import read_recipe
from lineage.recipe import DataSettings, Recipe, load_recipe
from lineage.studies.settings import kept_settings

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data are not at {DATA}")


def _wide(height: int, width: int) -> DataSet:
    pixels = torch.arange(2 * height * width, dtype=torch.uint8).view(2, height, width, 1)
    images = MemoryImages(pixels, torch.tensor([0, 1]))
    return memory_dataset("wide", images, images, ["a", "b"])


@needs_data
def test_cifar_at_16_pixels_is_the_rounded_mean_of_blocks() -> None:
    whole, half = (load_dataset("cifar10", str(DATA / "cifar10"), image_size=size) for size in (None, 16))
    assert isinstance(whole.test, MemoryImages)
    assert isinstance(half.test, MemoryImages)
    blocks = whole.test.pixels.numpy().astype(np.int64)
    sums = blocks[:, ::2, ::2] + blocks[:, 1::2, ::2] + blocks[:, ::2, 1::2] + blocks[:, 1::2, 1::2]
    np.testing.assert_array_equal(half.test.pixels.numpy(), np.floor(sums / 4 + 0.5))
    assert half.test.pixels.dtype == torch.uint8
    assert half.spec.input_shape == (3, 16, 16)
    assert half.spec.mean == pytest.approx(whole.spec.mean, abs=0.002)
    assert all(new < old for new, old in zip(half.spec.std, whole.spec.std, strict=True))
    assert torch.equal(half.test.labels, whole.test.labels)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_block_means_round_half_up(factor: int) -> None:
    pixels = torch.randint(256, (5, 12, 24, 3), generator=torch.Generator().manual_seed(factor)).byte()
    found = block_means(pixels, factor)
    blocks = pixels.numpy().reshape(5, 12 // factor, factor, 24 // factor, factor, 3).astype(float)
    np.testing.assert_array_equal(found.numpy(), np.floor(blocks.mean((2, 4)) + 0.5 + 1e-9))


def test_block_means_reach_the_last_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineage.data.reduction._IMAGES_PER_CHUNK", 2)
    pixels = torch.arange(5 * 16, dtype=torch.uint8).view(5, 4, 4, 1)
    assert torch.equal(block_means(pixels, 4).flatten(), torch.tensor([8, 24, 40, 56, 72]).byte())


def test_digest_is_that_of_the_images_and_the_size() -> None:
    digests = {load_dataset("digits", image_size=size).spec.digest for size in (None, 4, 2)}
    assert len(digests) == 3
    assert load_dataset("digits", image_size=8).spec == load_dataset("digits").spec
    other = load_dataset("digits")
    changed = DataSet(other.train, other.test, replace(other.spec, digest="d" * 64))
    assert reduce_images(changed, 4).spec.digest not in digests


@pytest.mark.parametrize("size", [3, 16, 224])
def test_size_that_does_not_divide_the_edge_is_refused(size: int) -> None:
    sentence = (
        rf"must divide the edge of the images of 'digits', 8 pixels, but got {size}; take one of 8, 4, 2, 1,"
    )
    with pytest.raises(UsageError, match=sentence):
        load_dataset("digits", image_size=size)


def test_size_of_images_that_are_not_square_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"where they are square and in memory, but got 2 for 4×6; leave it out\.$"
    ):
        reduce_images(_wide(4, 6), 2)


def test_stored_size_that_images_in_memory_ignored_reads_as_absent() -> None:
    settings = json.loads(load_recipe("digits").to_json())
    spec = load_dataset("digits").spec
    for size in (224, 64):
        settings["data"]["image_size"] = size
        assert read_recipe(json.dumps(settings), spec).data.image_size is None
    settings["data"]["image_size"] = 4
    reduced = load_dataset("digits", image_size=4).spec
    assert read_recipe(json.dumps(settings), reduced).data.image_size == 4


def test_absent_size_has_the_digest_of_its_first_default() -> None:
    absent = load_recipe("digits")
    first = Recipe.from_dict(absent.model_dump() | {"data": absent.data.model_dump() | {"image_size": 224}})
    assert absent.digest == first.digest
    assert load_recipe("digits", ["data.image_size=4"]).digest != absent.digest
    assert DataSettings(name="digits").image_size is None


def test_study_that_was_begun_with_the_first_default_goes_on() -> None:
    recipe = load_recipe("digits")
    assert kept_settings(recipe, "d" * 64)["recipe"]["data.image_size"] == 224
