"""What the rows of a data set look like: images, in memory or streamed, in views that a key numbers.

A key is ``view * num_samples + position``, with the position among the rows that are looked at.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lineage.data.augmentation import (
    Augmentation,
    Normalisation,
    crop_and_flip,
    random_bits,
    streamed_transform,
)
from lineage.data.images import DataSpec, Images, MemoryImages, StreamedImages
from lineage.errors import UsageError

Batch = tuple[Tensor, ...]


class SoftTargets(Protocol):
    """What is stored of a teacher for every view of every image that trains."""

    def read(self, views: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Of some of them: tensors (B, …) for views from 1 and places among those images, int64 (B,)."""


def view_of(
    images: Images,
    spec: DataSpec,
    indices: Tensor,
    augmentation: Augmentation | None,
    data_seed: int,
) -> Dataset[Batch]:
    """Some rows of images, augmented or as evaluation sees them, in batches (images, labels, rows).

    Raises:
        UsageError: If the padding does not fit the images.
    """
    if isinstance(images, MemoryImages):
        return MemoryView(images, spec, indices, augmentation, data_seed)
    return StreamedView(images, spec, indices, augmentation, data_seed)


class MemoryView(Dataset[Batch]):
    """Some rows of images in memory, a whole batch at a time."""

    def __init__(
        self,
        images: MemoryImages,
        spec: DataSpec,
        indices: Tensor,
        augmentation: Augmentation | None,
        data_seed: int,
    ) -> None:
        _, height, width, _ = images.pixels.shape
        if augmentation and not 0 <= augmentation.crop_padding < min(height, width):
            raise UsageError(
                f"data.crop_padding must be at least 0 and below the images' edge, {min(height, width)} "
                f"pixels, but got {augmentation.crop_padding}; change it."
            )
        self.images = images
        self.indices = indices
        self.augmentation = augmentation
        self.data_seed = data_seed
        self.normalise = Normalisation(spec.mean, spec.std, height, width)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: list[int]) -> Batch:
        """The batch of keys; a plain position is one of view 0."""
        views, rows = _views_and_rows(keys, self.indices)
        if self.augmentation is None:
            pixels = self.images.pixels[rows]
        else:
            bits = random_bits(self.data_seed, views, rows)
            pixels = crop_and_flip(self.images.pixels, rows, bits, self.augmentation)
        return self.normalise(pixels), self.images.labels[rows], rows


class ViewWithSoftTargets(Dataset[Batch]):
    """Images, and beside them what is stored of a teacher for what they show.

    Args:
        view: Of the images.
        soft targets: Of the same images.
        num_samples: How many there are.
    """

    def __init__(self, view: Dataset[Batch], soft_targets: SoftTargets, num_samples: int) -> None:
        self.view = view
        self.soft_targets = soft_targets
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitems__(self, keys: list[int]) -> Batch:
        """The batch of keys."""
        numbers = torch.tensor(keys)
        batch: Batch = self.view.__getitems__(keys)  # type: ignore[attr-defined]
        return (*batch, *self.soft_targets.read(numbers // self.num_samples, numbers % self.num_samples))


class StreamedView(Dataset[Batch]):
    """Some rows of streamed images, decoded and transformed one by one."""

    def __init__(
        self,
        images: StreamedImages,
        spec: DataSpec,
        indices: Tensor,
        augmentation: Augmentation | None,
        data_seed: int,
    ) -> None:
        self.images = images
        self.indices = indices
        self.data_seed = data_seed
        self.transform = streamed_transform(spec, augmentation)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: list[int]) -> Batch:
        """The batch of keys; a plain position is one of view 0."""
        views, rows = _views_and_rows(keys, self.indices)
        bits = random_bits(self.data_seed, views, rows)
        shown = []
        # torchvision draws from the CPU's global generator. torch.manual_seed would seed those of the GPUs as
        # well, which belong to the model.
        with torch.random.fork_rng(devices=[]):
            for row, seed in zip(rows.tolist(), bits.tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                shown.append(self.transform(self.images.read(row)))
        images = torch.stack(shown).contiguous(memory_format=torch.channels_last)
        return images, self.images.labels[rows], rows


def _views_and_rows(keys: list[int], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Take keys apart: view and row of each sample, both int64, shape (B,)."""
    numbers = torch.tensor(keys)
    return numbers // len(indices), indices[numbers % len(indices)]
