"""Pictures of test images as addresses that hold the image."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lineage.data.images import MemoryImages
from lineage.errors import IntegrityError
from lineage.evaluation.pictures import picture_address


class Photographs:
    """Two streamed images: a large one, and one that cannot be decoded."""

    labels = torch.tensor([0, 1])

    def __len__(self) -> int:
        return 2

    def read(self, index: int) -> Tensor:
        if index == 1:
            raise IntegrityError("broken")
        return torch.full((3, 200, 300), 90, dtype=torch.uint8)


def opened(address: str | None) -> Image.Image:
    assert address is not None
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


def test_small_pictures_keep_every_pixel_and_grey_gets_colours() -> None:
    pixels = torch.arange(2 * 5 * 4, dtype=torch.uint8).view(2, 5, 4, 1)
    found = opened(picture_address(MemoryImages(pixels, torch.zeros(2)), 1))
    assert (found.format, found.size, found.mode) == ("PNG", (4, 5), "RGB")
    assert (np.asarray(found) == pixels[1].numpy()).all()


def test_large_pictures_are_made_smaller() -> None:
    found = opened(picture_address(Photographs(), 0))
    assert (found.format, found.size) == ("JPEG", (96, 64))
    assert np.abs(np.asarray(found).astype(int) - 90).max() <= 2


def test_picture_that_cannot_be_decoded_is_none() -> None:
    assert picture_address(Photographs(), 1) is None
