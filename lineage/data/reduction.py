"""Images in memory reduced to a smaller edge, by averaging blocks of pixels in integers."""

from dataclasses import replace

import torch
from torch import Tensor

from lineage.data.images import DataSet, MemoryImages, channel_statistics
from lineage.errors import UsageError
from lineage.formats import json_digest

_IMAGES_PER_CHUNK = 4096


def reduce_images(dataset: DataSet, image_size: int) -> DataSet:
    """Return a data set whose images have ``image_size`` pixels on each edge.

    Images in memory are reduced by ``block_means``; mean and standard deviation are then those of the reduced
    images, and the digest is that of the original one and the size. Images that have the size, such as
    streamed ones, are left as they are.

    Args:
        dataset: Data set, as its builder returns it.
        image_size: Edge in pixels, as ``data.image_size`` gives it.

    Raises:
        UsageError: If the images cannot be reduced to that size by whole blocks.
    """
    spec, train, test = dataset.spec, dataset.train, dataset.test
    channels, height, width = spec.input_shape
    if height == width == image_size:
        return dataset
    if not isinstance(train, MemoryImages) or not isinstance(test, MemoryImages) or height != width:
        raise UsageError(
            f"data.image_size must be the edge of the images of '{spec.name}', or divide it where they are "
            f"square and in memory, but got {image_size} for {height}×{width}; leave it out."
        )
    if height % image_size:
        sizes = ", ".join(str(size) for size in range(height, 0, -1) if height % size == 0)
        raise UsageError(
            f"data.image_size must divide the edge of the images of '{spec.name}', {height} pixels, but got "
            f"{image_size}; take one of {sizes}, or leave it out."
        )
    train, test = (
        MemoryImages(block_means(part.pixels, height // image_size), part.labels) for part in (train, test)
    )
    mean, std = channel_statistics(train.pixels)
    digest = json_digest({"images": spec.digest, "image_size": image_size})
    shape = (channels, image_size, image_size)
    return DataSet(train, test, replace(spec, mean=mean, std=std, input_shape=shape, digest=digest))


def block_means(pixels: Tensor, factor: int) -> Tensor:
    """Return the mean of each block of ``factor`` × ``factor`` pixels, rounded half up.

    All arithmetic is in integers, so the bits are the same on every machine.

    Args:
        pixels: Images, uint8, shape (N, H, W, C).
        factor: Edge of a block in pixels, which must divide H and W.

    Returns:
        Reduced images, uint8, shape (N, H / factor, W / factor, C).
    """
    number, height, width, channels = pixels.shape
    blocks = pixels.reshape(number, height // factor, factor, width // factor, factor, channels)
    area = factor**2
    return torch.cat(
        [
            ((chunk.sum((2, 4), dtype=torch.int32) + area // 2) // area).to(torch.uint8)
            for chunk in torch.split(blocks, _IMAGES_PER_CHUNK)
        ]
    )
