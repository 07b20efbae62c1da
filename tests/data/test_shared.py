import dataclasses
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from lineage.data.datasets import load_dataset
from lineage.data.images import MemoryImages
from lineage.data.shared import load_shared, share


def _pixels(descriptor: int) -> torch.Tensor:
    train = load_shared(descriptor).train
    assert isinstance(train, MemoryImages)
    return train.pixels


def test_shared_data_set_is_the_one_that_was_shared() -> None:
    original = load_dataset("digits")
    with share(original) as file:  # type: ignore[union-attr]
        loaded = load_shared(file.fileno())
    assert loaded.spec == original.spec
    for ours, theirs in ((loaded.train, original.train), (loaded.test, original.test)):
        assert isinstance(ours, MemoryImages)
        assert isinstance(theirs, MemoryImages)
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="The system has no files in memory.")
def test_shared_images_are_pages_of_the_file_and_no_copy_of_them() -> None:
    with share(load_dataset("digits")) as file:  # type: ignore[union-attr]
        pixels = _pixels(file.fileno())
        for line in Path("/proc/self/maps").read_text().splitlines():
            first, last = (int(bound, 16) for bound in line.split()[0].split("-"))
            if first <= pixels.data_ptr() < last:
                assert "memfd:lineage-data" in line
                return
    pytest.fail("The images are nowhere.")


def test_write_to_shared_images_stays_in_its_process() -> None:
    with share(load_dataset("digits")) as file:  # type: ignore[union-attr]
        one, other = _pixels(file.fileno()), _pixels(file.fileno())
    before = other.clone()
    one.fill_(7)
    assert torch.equal(other, before)


def test_images_in_columns_of_another_order_are_shared_as_they_are() -> None:
    original = load_dataset("digits")
    assert isinstance(original.train, MemoryImages)
    turned = MemoryImages(original.train.pixels.transpose(1, 2), original.train.labels)
    with share(dataclasses.replace(original, train=turned)) as file:  # type: ignore[union-attr]
        assert torch.equal(_pixels(file.fileno()), turned.pixels)


def test_streamed_images_are_not_shared(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(folder / f"{part}.png")
    assert share(load_dataset("imagefolder", tmp_path, image_size=8)) is None
