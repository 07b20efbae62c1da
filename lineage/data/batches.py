"""Data loaders whose batches are the same for any number of workers and processes.

A batch is (images, labels, indices, *stored soft targets). Images are float32, shape (B, C, H, W),
normalised, in channels_last memory format; labels and indices are int64, shape (B,). Labels of mixed views
are shares of the classes, float32, shape (B, number of classes). An index is the image's row in its part of
the data set.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lineage.data.augmentation import Augmentation, random_bits
from lineage.data.images import DataSpec, Images
from lineage.data.splits import split_indices
from lineage.data.views import Batch, SoftTargets, ViewWithSoftTargets, view_of
from lineage.data.workers import BATCHES_PER_WORKER, require_shared_memory, send_errors
from lineage.errors import UsageError

__all__ = [
    "Augmentation",
    "Batch",
    "SoftTargets",
    "TrainingBatches",
    "ViewOrder",
    "evaluation_batches",
    "split_indices",
    "training_batches",
]


class EpochOrder(Sampler[int]):
    """Samples an epoch in an order fixed by (order seed, epoch), cut to whole batches.

    It yields keys, ``view * num_samples + position``, so that a persistent worker learns the view with each
    sample. It has no attribute ``generator`` and no method ``set_epoch``, because Accelerate would reseed the
    first and call the second with its own counter.

    Args:
        num_samples: Number of training images.
        num_drawn: Number of samples per epoch; the rest of the permutation is dropped.
        order_seed: Seed of the permutations.
        num_views: Distinct augmented views per image before they repeat; None shows new ones in every epoch.
        labels: Class of each image, shape (N,), to draw all classes alike; None draws every image once.
    """

    def __init__(
        self,
        num_samples: int,
        num_drawn: int,
        order_seed: int,
        num_views: int | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.num_drawn = num_drawn
        self.order_seed = order_seed
        self.num_views = num_views
        self.labels = labels
        self.epoch = 0

    @property
    def view(self) -> int:
        """Number of the view that the epoch shows of every image, from 1 like epochs."""
        return self.epoch if self.num_views is None else (self.epoch - 1) % self.num_views + 1

    def __len__(self) -> int:
        return self.num_drawn

    def __iter__(self) -> Iterator[int]:
        seed = random_bits(self.order_seed, torch.tensor(self.epoch), torch.tensor(0))
        generator = torch.Generator().manual_seed(int(seed))
        order = torch.randperm(self.num_samples, generator=generator)
        if self.labels is not None:
            order = balanced(order, self.labels, generator)
        return iter((self.view * self.num_samples + order[: self.num_drawn]).tolist())


def balanced(order: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return an order of as many samples in which all classes come equally often, to within one in a round.

    The samples are drawn in rounds of one of each class, in a new order of the classes each time. Those of a
    class come in ``order``, and again from its start where they are used up; of a large class some are left
    out.

    Args:
        order: Permutation of the samples, int64, shape (N,).
        labels: Class of each sample, int64, shape (N,).
        generator: Source of the order of classes.
    """
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    counts = counts[counts > 0]
    num_rounds = -(-len(order) // len(counts))
    starts = counts.cumsum(0) - counts
    rows = by_class[starts + torch.arange(num_rounds)[:, None] % counts]  # (rounds, classes)
    shuffled = torch.rand(rows.shape, generator=generator).argsort(dim=1)
    return rows.gather(1, shuffled).flatten()[: len(order)]


class ViewOrder(Sampler[int]):
    """Samples in their order, with keys as ``EpochOrder`` has; the next pass shows the view that is set.

    Attributes:
        view: Number of the view.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.view = 0

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.view * self.num_samples, (self.view + 1) * self.num_samples))


@dataclass(frozen=True, eq=False)
class TrainingBatches:
    """Training data of one generation.

    Attributes:
        loader: Loader of one epoch; Accelerate may prepare it with ``split_batches=True``.
        steps_per_epoch: Optimizer steps per epoch; the loader gives ``accumulation`` batches per step.
        order: Sampler of the loader.
    """

    loader: DataLoader[Batch]
    steps_per_epoch: int
    order: EpochOrder

    def select_epoch(self, epoch: int) -> None:
        """Set order and view of the loader's next iteration, also if Accelerate has prepared the loader."""
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
    balance_classes: bool = False,
) -> TrainingBatches:
    """Return shuffled batches of equal size; an incomplete last batch is dropped.

    Args:
        images: Images of the training part.
        spec: Description of the data set.
        indices: Rows to train on, int64, shape (N,).
        batch_size: Images per optimizer step, over all processes.
        augmentation: Settings of the augmentation; None shows images as evaluation does.
        data_seed: Seed of the augmentation.
        order_seed: Seed of the order.
        workers: Number of worker processes; 0 loads in the calling process.
        accumulation: Batches accumulated per optimizer step; must divide ``batch_size``.
        num_views: Distinct augmented views per image before they repeat; None shows new ones in every epoch.
        soft_targets: Stored soft targets to append to every batch; none by default.
        balance_classes: Whether to draw all classes equally often, whatever their number of images.

    Raises:
        UsageError: If ``batch_size`` exceeds the number of images, ``accumulation`` does not divide it, the
            padding does not fit the images, or the workers' batches do not fit into shared memory.
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
    labels = images.labels[indices] if balance_classes else None
    order = EpochOrder(len(indices), steps * batch_size, order_seed, num_views, labels)
    view: Dataset[Batch] = view_of(images, spec, indices, augmentation, data_seed)
    if soft_targets is not None:
        view = ViewWithSoftTargets(view, soft_targets, len(indices))
    loader = _loader(view, spec, batch_size // accumulation, workers, order, drop_last=True)
    return TrainingBatches(loader, steps, order)


def evaluation_batches(
    images: Images,
    spec: DataSpec,
    indices: Tensor,
    batch_size: int,
    workers: int = 0,
    augmentation: Augmentation | None = None,
    data_seed: int = 0,
    order: ViewOrder | None = None,
) -> DataLoader[Batch]:
    """Return batches in the order of ``indices``; the last may be smaller.

    Args:
        images: Images of one part of the data set.
        spec: Description of the data set.
        indices: Rows to load, int64, shape (N,).
        batch_size: Images per batch.
        workers: Number of worker processes; 0 loads in the calling process.
        augmentation: Settings of the augmentation; None, as for an evaluation, applies none.
        data_seed: Seed of the augmentation.
        order: Sampler that names the view to load of every image; the first one by default.

    Raises:
        UsageError: If the padding does not fit the images, or the workers' batches shared memory.
    """
    shown = view_of(images, spec, indices, augmentation, data_seed)
    return _loader(shown, spec, batch_size, workers, order or ViewOrder(len(indices)), drop_last=False)


def _loader(
    view: Dataset[Batch],
    spec: DataSpec,
    batch_size: int,
    workers: int,
    keys: Sampler[int],
    drop_last: bool,
) -> DataLoader[Batch]:
    """Return a loader with persistent workers that draws nothing from the global generator."""
    require_shared_memory(workers, batch_size * math.prod(spec.input_shape) * torch.float32.itemsize)
    return DataLoader(
        view,
        batch_size,
        sampler=keys,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        worker_init_fn=send_errors,
        prefetch_factor=BATCHES_PER_WORKER if workers else None,
    )


def _identity(batch: Any) -> Any:
    """Return ``batch``, which the view has collated already; a lambda could not be pickled for workers."""
    return batch
