"""Batches of (images, labels, indices), the same on any number of workers and processes.

Images are float32, shape (B, C, H, W), normalised, in channels_last memory format; labels and indices int64,
shape (B,). An index is the image's row in its part of the data set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lineage.errors import UsageError
from lineage.vision.augmentation import (
    Augmentation,
    Normalisation,
    crop_and_flip,
    random_bits,
    streamed_transform,
)
from lineage.vision.images import Description, Images, MemoryImages, StreamedImages
from lineage.vision.splits import split_indices

__all__ = [
    "Augmentation",
    "Batch",
    "TrainingBatches",
    "evaluation_batches",
    "split_indices",
    "training_batches",
]

Batch = tuple[Tensor, Tensor, Tensor]


class EpochOrder(Sampler[int]):
    """The order of an epoch's samples: a permutation of (order seed, epoch), cut to whole batches.

    A key is ``epoch * num_samples + position``, so that a persistent worker learns the epoch with each
    sample. There is no ``generator`` and no ``set_epoch``: Accelerate would reseed the one and call the other
    with its own counter.
    """

    def __init__(self, num_samples: int, num_drawn: int, order_seed: int) -> None:
        self.num_samples = num_samples
        self.num_drawn = num_drawn
        self.order_seed = order_seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_drawn

    def __iter__(self) -> Iterator[int]:
        seed = random_bits(self.order_seed, torch.tensor(self.epoch), torch.tensor(0))
        order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(int(seed)))
        return iter((self.epoch * self.num_samples + order[: self.num_drawn]).tolist())


@dataclass(frozen=True, eq=False)
class TrainingBatches:
    """What one generation trains on.

    Attributes:
        loader: Gives one epoch; may be prepared by Accelerate with ``split_batches=True``.
        steps_per_epoch: Optimizer steps an epoch; the loader gives ``accumulation`` batches for each.
        order: The loader's sampler.
    """

    loader: DataLoader[Batch]
    steps_per_epoch: int
    order: EpochOrder

    def select_epoch(self, epoch: int) -> None:
        """Choose order and views of the loader's next iteration, also where Accelerate has prepared it."""
        self.order.epoch = epoch


def training_batches(  # noqa: PLR0913, PLR0917 - each is one setting of a recipe
    images: Images,
    description: Description,
    indices: Tensor,
    batch_size: int,
    augmentation: Augmentation | None,
    data_seed: int,
    order_seed: int,
    workers: int = 0,
    accumulation: int = 1,
) -> TrainingBatches:
    """Shuffled batches of one size; what is left over of an epoch is dropped.

    Args:
        images: One part of a data set.
        description: Its description.
        indices: The rows that train, int64, shape (N,).
        batch_size: Images in one optimizer step, over all processes.
        augmentation: How images are varied; None shows them as evaluation does.
        data_seed: Fixes the views.
        order_seed: Fixes the order.
        workers: Processes that prepare batches; 0 prepares them in this one.
        accumulation: Batches that one optimizer step accumulates; divides ``batch_size``.

    Raises:
        UsageError: If batch size, accumulation or padding do not fit each other or the data.
    """
    if batch_size > len(indices):
        raise UsageError(
            f"training.batch_size must be at most the number of training images, {len(indices)}, but got "
            f"{batch_size}; lower it."
        )
    if batch_size % accumulation:
        raise UsageError(
            f"training.accumulation must divide training.batch_size, {batch_size}, but got {accumulation}; "
            "change either."
        )
    steps = len(indices) // batch_size
    order = EpochOrder(len(indices), steps * batch_size, order_seed)
    view = _view(images, description, indices, augmentation, data_seed)
    loader = _loader(view, batch_size // accumulation, workers, order)
    return TrainingBatches(loader, steps, order)


def evaluation_batches(
    images: Images, description: Description, indices: Tensor, batch_size: int, workers: int = 0
) -> DataLoader[Batch]:
    """Batches in the order of ``indices``, not augmented; the last may be smaller."""
    return _loader(_view(images, description, indices, None, data_seed=0), batch_size, workers)


class MemoryView(Dataset[Batch]):
    """Some rows of images in memory, a whole batch at a time."""

    def __init__(
        self,
        images: MemoryImages,
        description: Description,
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
        self.normalise = Normalisation(description.mean, description.std, height, width)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: list[int]) -> Batch:
        """The batch of ``EpochOrder``'s keys; a plain position is a key of epoch 0."""
        epochs, rows = _epochs_and_rows(keys, self.indices)
        if self.augmentation is None:
            pixels = self.images.pixels[rows]
        else:
            bits = random_bits(self.data_seed, epochs, rows)
            pixels = crop_and_flip(self.images.pixels, rows, bits, self.augmentation)
        return self.normalise(pixels), self.images.labels[rows], rows


class StreamedView(Dataset[Batch]):
    """Some rows of streamed images, decoded and transformed one by one."""

    def __init__(
        self,
        images: StreamedImages,
        description: Description,
        indices: Tensor,
        augmentation: Augmentation | None,
        data_seed: int,
    ) -> None:
        self.images = images
        self.indices = indices
        self.data_seed = data_seed
        self.transform = streamed_transform(description, augmentation)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: list[int]) -> Batch:
        """The batch of ``EpochOrder``'s keys; a plain position is a key of epoch 0."""
        epochs, rows = _epochs_and_rows(keys, self.indices)
        bits = random_bits(self.data_seed, epochs, rows)
        views = []
        # torchvision draws from the CPU's global generator. torch.manual_seed would seed those of the GPUs as
        # well, which belong to the model.
        with torch.random.fork_rng(devices=[]):
            for row, seed in zip(rows.tolist(), bits.tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                views.append(self.transform(self.images.read(row)))
        images = torch.stack(views).contiguous(memory_format=torch.channels_last)
        return images, self.images.labels[rows], rows


def _view(
    images: Images,
    description: Description,
    indices: Tensor,
    augmentation: Augmentation | None,
    data_seed: int,
) -> Dataset[Batch]:
    if isinstance(images, MemoryImages):
        return MemoryView(images, description, indices, augmentation, data_seed)
    return StreamedView(images, description, indices, augmentation, data_seed)


def _loader(
    view: Dataset[Batch], batch_size: int, workers: int, order: EpochOrder | None = None
) -> DataLoader[Batch]:
    """A loader whose workers live on, and which draws nothing from the global generator."""
    return DataLoader(
        view,
        batch_size,
        sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        drop_last=order is not None,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


def _epochs_and_rows(keys: list[int], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Take ``EpochOrder``'s keys apart: epoch and row of each sample, both int64, shape (B,)."""
    numbers = torch.tensor(keys)
    return numbers // len(indices), indices[numbers % len(indices)]


def _as_it_is(batch: Any) -> Any:
    """A view's batch is a batch already; a named function, since workers may have to pickle it."""
    return batch
