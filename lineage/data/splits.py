"""Stratified splits: a validation part, or a smaller training part, with the same share of every class."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lineage.data.stratified import stratified_split
from lineage.errors import UsageError
from lineage.formats import counted


def split_indices(
    labels: Tensor,
    num_classes: int,
    validation: float,
    seed: int,
    train_samples: int | None = None,
    class_names: Sequence[str] | None = None,
    subset: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Split the training part of a data set into training and validation rows.

    The validation rows depend on ``validation`` and ``seed`` alone.

    Args:
        labels: Class of each image, int64, shape (N,).
        num_classes: Number of classes.
        validation: Share of each class held out for validation, in [0, 1); 0 holds out none.
        seed: Seed of the split, taken modulo 2³².
        train_samples: Number of training images, at most those that validation leaves; None takes all.
        class_names: Names of the classes in error messages; their numbers by default.
        subset: Seed and index, 0 or 1, of the half of these training images to take; None takes both.

    Returns:
        Training rows and validation rows, each int64 and sorted.

    Raises:
        UsageError: If an argument is out of range, or a class would be missing from either part.
    """
    if not 0 <= validation < 1:
        raise UsageError(
            f"data.validation must be at least 0 and below 1, but got {validation}; set it to 0.1."
        )
    counts = torch.bincount(labels, minlength=num_classes)
    smallest = int(counts.min())
    needed = 2 if validation else 1
    if smallest < needed:
        fewer = (counts < needed).nonzero().flatten().tolist()
        named = [f"'{class_names[label]}'" if class_names else f"class {label}" for label in fewer[:5]]
        more = f" and {len(fewer) - 5} more" if len(fewer) > 5 else ""
        raise UsageError(
            f"Each of the {num_classes} classes must have {counted(needed, 'training image')} or more, but "
            f"{', '.join(named)}{more} {'has' if len(fewer) == 1 else 'have'} fewer; "
            + ("set data.validation to 0 or add images." if smallest else "remove the class or add images.")
        )
    train, held_out = torch.arange(len(labels)), torch.empty(0, dtype=torch.int64)
    if validation:
        train, held_out = _divide(train, labels, num_classes, validation, seed)
    if train_samples is not None and train_samples != len(train):
        train = _draw(train, labels, num_classes, train_samples, seed)
    if subset is not None:
        train = _halves(train, labels, num_classes, seed=subset[0])[subset[1]]
    return train, held_out


def _divide(
    rows: Tensor, labels: Tensor, num_classes: int, validation: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Hold out the share ``validation`` of the rows."""
    num_images = len(rows)
    num_validation = math.ceil(validation * num_images)
    must = f"Each of the {num_classes} classes must have an image in training and in validation, but "
    if not num_classes <= num_validation <= num_images - num_classes:
        raise UsageError(
            f"{must}data.validation={validation} cuts {num_validation} of {num_images} images; "
            f"{'lower' if validation > 0.5 else 'raise'} it, or set it to 0 for no validation."
        )
    train, held_out = _stratified(rows, labels, num_images - num_validation, seed)
    for part, title, change in ((train, "training", "lower"), (held_out, "validation", "raise")):
        if absent := _count_absent(labels[part], num_classes):
            raise UsageError(
                f"{must}data.validation={validation} leaves {absent} without one in {title}; "
                f"{change} it, or set it to 0 for no validation."
            )
    return train, held_out


def _draw(rows: Tensor, labels: Tensor, num_classes: int, train_samples: int, seed: int) -> Tensor:
    """Draw ``train_samples`` of the training rows."""
    available = len(rows)
    if not num_classes <= train_samples <= available - num_classes:
        raise UsageError(
            f"data.train_samples must be from {num_classes}, the number of classes, to "
            f"{available - num_classes}, or all {available} images that validation leaves, but got "
            f"{train_samples}; change it or leave it out."
        )
    taken, _ = _stratified(rows, labels, train_samples, seed)
    if absent := _count_absent(labels[taken], num_classes):
        raise UsageError(
            f"Each of the {num_classes} classes must have a training image, but "
            f"data.train_samples={train_samples} leaves {absent} without one; raise it."
        )
    return taken


def _halves(rows: Tensor, labels: Tensor, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the training rows into halves; of an odd number, the second half has one more."""
    counts = torch.bincount(labels[rows], minlength=num_classes)
    if few := int((counts < 2).sum()):
        raise UsageError(
            f"Each of the {num_classes} classes must have 2 training images or more to be divided by"
            f" data.subset, but {few} {'has' if few == 1 else 'have'} fewer; leave it out or add images."
        )
    return _stratified(rows, labels, len(rows) // 2, seed)


def _count_absent(labels: Tensor, num_classes: int) -> int:
    """Return the number of classes that are absent from ``labels``."""
    return int((torch.bincount(labels, minlength=num_classes) == 0).sum())


def _stratified(rows: Tensor, labels: Tensor, num_first: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows into ``num_first`` and the others, each sorted, with the same share of every class."""
    first, second = stratified_split(labels[rows].numpy(), num_first, seed % 2**32)
    return rows[torch.from_numpy(first)], rows[torch.from_numpy(second)]
