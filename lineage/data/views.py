"""Torch data sets that return the batch for a list of keys.

A key is ``view * num_samples + position``: the number of an augmented view, and a position among the selected
rows of the data set.
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
    """Teacher outputs stored for every view of every training image."""

    def read(self, views: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Read the stored outputs of a batch.

        Args:
            views: View numbers, from 1, int64, shape (B,).
            positions: Positions among the training images, int64, shape (B,).

        Returns:
            Tensors of shape (B, …).
        """


def view_of(
    images: Images,
    spec: DataSpec,
    indices: Tensor,
    augmentation: Augmentation | None,
    data_seed: int,
) -> Dataset[Batch]:
    """Return a torch data set of selected rows, which gives batches (images, labels, rows).

    Args:
        images: Images in memory or streamed.
        spec: Description of the data set.
        indices: Rows to select, int64, shape (N,).
        augmentation: Settings of the augmentation; None shows images as evaluation does.
        data_seed: Seed of the augmentation.

    Raises:
        UsageError: If the padding does not fit the images.
    """
    if isinstance(images, MemoryImages):
        return MemoryView(images, spec, indices, augmentation, data_seed)
    return StreamedView(images, spec, indices, augmentation, data_seed)


class MemoryView(Dataset[Batch]):
    """Selected rows of images in memory, augmented and normalised a whole batch at a time."""

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
        """Return the batch for ``keys``; positions alone are keys of view 0."""
        views, rows = _views_and_rows(keys, self.indices)
        if self.augmentation is None:
            pixels = self.images.pixels[rows]
        else:
            bits = random_bits(self.data_seed, views, rows)
            pixels = crop_and_flip(self.images.pixels, rows, bits, self.augmentation)
        return self.normalise(pixels), self.images.labels[rows], rows


class ViewWithSoftTargets(Dataset[Batch]):
    """Batches of another data set, followed by a teacher's stored outputs for the same views.

    Args:
        view: Data set of the images.
        soft_targets: Stored outputs for these images.
        num_samples: Number of images.
    """

    def __init__(self, view: Dataset[Batch], soft_targets: SoftTargets, num_samples: int) -> None:
        self.view = view
        self.soft_targets = soft_targets
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitems__(self, keys: list[int]) -> Batch:
        """Return the batch for ``keys``, with the stored outputs appended."""
        numbers = torch.tensor(keys)
        batch: Batch = self.view.__getitems__(keys)  # type: ignore[attr-defined]
        return (*batch, *self.soft_targets.read(numbers // self.num_samples, numbers % self.num_samples))


class StreamedView(Dataset[Batch]):
    """Selected rows of streamed images, decoded and transformed one by one."""

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
        """Return the batch for ``keys``; positions alone are keys of view 0."""
        views, rows = _views_and_rows(keys, self.indices)
        bits = random_bits(self.data_seed, views, rows)
        shown = []
        # torchvision draws from the CPU's global generator. torch.manual_seed would also reseed the GPUs'
        # generators, from which the model draws.
        with torch.random.fork_rng(devices=[]):
            for row, seed in zip(rows.tolist(), bits.tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                shown.append(self.transform(self.images.read(row)))
        images = torch.stack(shown).contiguous(memory_format=torch.channels_last)
        return images, self.images.labels[rows], rows


def _views_and_rows(keys: list[int], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the view and the row of each key, both int64, shape (B,)."""
    numbers = torch.tensor(keys)
    return numbers // len(indices), indices[numbers % len(indices)]
