"""Batches of (images, labels, indices), the same on any number of workers and processes.

Images are float32, shape (B, C, H, W), normalised, in channels_last memory format; labels and indices int64,
shape (B,). An index is the image's row in its part of the data set. What is stored of a teacher comes last.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lineage.data.augmentation import Augmentation, random_bits
from lineage.data.images import DataSpec, Images
from lineage.data.splits import split_indices
from lineage.data.views import Batch, SoftTargets, ViewWithSoftTargets, view_of
from lineage.errors import UsageError

__all__ = [
    "Augmentation",
    "Batch",
    "SoftTargets",
    "TrainingBatches",
    "evaluation_batches",
    "split_indices",
    "training_batches",
]


class EpochOrder(Sampler[int]):
    """The order of an epoch's samples: a permutation of (order seed, epoch), cut to whole batches.

    A key is ``view * num_samples + position``, so that a persistent worker learns the view with each sample.
    There is no ``generator`` and no ``set_epoch``: Accelerate would reseed the one and call the other with
    its own counter.

    Args:
        num_samples: To draw from.
        num_drawn: An epoch.
        order_seed: Fixes the order.
        num_views: After which views come again; None shows new ones in every epoch.
    """

    def __init__(
        self, num_samples: int, num_drawn: int, order_seed: int, num_views: int | None = None
    ) -> None:
        self.num_samples = num_samples
        self.num_drawn = num_drawn
        self.order_seed = order_seed
        self.num_views = num_views
        self.epoch = 0

    @property
    def view(self) -> int:
        """What the epoch shows of every image: from 1, as epochs are counted."""
        return self.epoch if self.num_views is None else (self.epoch - 1) % self.num_views + 1

    def __len__(self) -> int:
        return self.num_drawn

    def __iter__(self) -> Iterator[int]:
        seed = random_bits(self.order_seed, torch.tensor(self.epoch), torch.tensor(0))
        order = torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(int(seed)))
        return iter((self.view * self.num_samples + order[: self.num_drawn]).tolist())


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
    spec: DataSpec,
    indices: Tensor,
    batch_size: int,
    augmentation: Augmentation | None,
    data_seed: int,
    order_seed: int,
    workers: int = 0,
    accumulation: int = 1,
    num_views: int | None = None,
    soft_targets: SoftTargets | None = None,
) -> TrainingBatches:
    """Shuffled batches of one size; what is left over of an epoch is dropped.

    Args:
        images: One part of a data set.
        spec: Its description.
        indices: The rows that train, int64, shape (N,).
        batch_size: Images in one optimizer step, over all processes.
        augmentation: How images are varied; None shows them as evaluation does.
        data_seed: Fixes the views.
        order_seed: Fixes the order.
        workers: Processes that prepare batches; 0 prepares them in this one.
        accumulation: Batches that one optimizer step accumulates; divides ``batch_size``.
        num_views: After how many epochs views come again; None shows new ones in every epoch.
        soft_targets: A teacher's stored outputs that every batch carries; none by default.

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
    order = EpochOrder(len(indices), steps * batch_size, order_seed, num_views)
    view = view_of(images, spec, indices, augmentation, data_seed)
    if soft_targets is not None:
        view = ViewWithSoftTargets(view, soft_targets, len(indices))
    loader = _loader(view, batch_size // accumulation, workers, order, drop_last=True)
    return TrainingBatches(loader, steps, order)


def evaluation_batches(
    images: Images,
    spec: DataSpec,
    indices: Tensor,
    batch_size: int,
    workers: int = 0,
    augmentation: Augmentation | None = None,
    data_seed: int = 0,
    view: int = 0,
) -> DataLoader[Batch]:
    """Batches in the order of ``indices``; the last may be smaller.

    They are not augmented, unless one view of every image is asked for, as an epoch of training shows it.
    """
    shown = view_of(images, spec, indices, augmentation, data_seed)
    keys = range(view * len(indices), (view + 1) * len(indices))
    return _loader(shown, batch_size, workers, keys, drop_last=False)


def _loader(
    view: Dataset[Batch], batch_size: int, workers: int, keys: Iterable[int], drop_last: bool
) -> DataLoader[Batch]:
    """A loader whose workers live on, and which draws nothing from the global generator."""
    return DataLoader(
        view,
        batch_size,
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


def _as_it_is(batch: Any) -> Any:
    """A view's batch is a batch already; a named function, since workers may have to pickle it."""
    return batch
