"""The most probable classes of each sample, with the scores that explain them, from logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

NUM_TOP_CLASSES = 5

_SCORES = ("top_score_difference", "secondary_mass", "superclass_share")


@dataclass(frozen=True, eq=False)
class TopClasses:
    """The most probable classes of N samples, on the CPU.

    Attributes:
        labels: Class of each sample, int64, shape (N,).
        classes: The k = min(5, C) most probable classes, the most probable one first, int64, shape (N, k).
        probabilities: Their probabilities, float32, shape (N, k).
        scores: Scores of each sample by name, float32, shape (N,): ``top_score_difference``,
            ``secondary_mass`` and, where the data set has superclasses, ``superclass_share``, the part of the
            sample's secondary mass inside the label's superclass, NaN where no secondary mass is left.
        num_classes: C.
        top_k: K of the scores.
    """

    labels: Tensor
    classes: Tensor
    probabilities: Tensor
    scores: dict[str, Tensor]
    num_classes: int
    top_k: int


def row_width(num_classes: int) -> int:
    """Return the length of a row of ``top_rows``."""
    return 2 * min(NUM_TOP_CLASSES, num_classes) + len(_SCORES)


def top_rows(logits: Tensor, labels: Tensor, top_k: int, superclasses: Tensor | None) -> Tensor:
    """Return what ``read_rows`` reads, one row a sample, so that one tensor is gathered and moved.

    Args:
        logits: Logits, shape (n, C).
        labels: Classes, shape (n,).
        top_k: K of the scores, at least 2; C where there are fewer classes.
        superclasses: Superclass of each class, shape (C,), on the same device; None if there are none.

    Returns:
        k classes, k probabilities and the scores, float32, shape (n, ``row_width``). Numbers of classes below
        2²⁴ are exact in float32.
    """
    num_classes = logits.shape[1]
    shown, ranked = min(NUM_TOP_CLASSES, num_classes), min(top_k, num_classes)
    top = logits.softmax(dim=1).topk(max(shown, ranked), dim=1)
    masses, classes = top.values[:, 1:ranked], top.indices[:, 1:ranked]
    secondary_mass = masses.sum(dim=1)
    difference = top.values[:, 0] - secondary_mass / (ranked - 1)
    share = torch.full_like(secondary_mass, torch.nan)
    if superclasses is not None:
        inside = superclasses[classes] == superclasses[labels].unsqueeze(1)
        share = (masses * inside).sum(dim=1) / secondary_mass
    scores = torch.stack([difference, secondary_mass, share], dim=1)
    columns = [top.indices[:, :shown].to(scores.dtype), top.values[:, :shown], scores]
    return torch.cat(columns, dim=1).float()


def read_rows(rows: Tensor, labels: Tensor, num_classes: int, top_k: int) -> TopClasses:
    """Return the values in rows of ``top_rows``.

    Args:
        rows: Rows of all samples, on the CPU.
        labels: Classes of the samples, shape (N,).
        num_classes: C.
        top_k: K of the scores.
    """
    shown = min(NUM_TOP_CLASSES, num_classes)
    scores = dict(zip(_SCORES, rows[:, 2 * shown :].unbind(dim=1), strict=True))
    if scores["superclass_share"].isnan().all():
        del scores["superclass_share"]
    return TopClasses(
        labels=labels,
        classes=rows[:, :shown].long(),
        probabilities=rows[:, shown : 2 * shown],
        scores=scores,
        num_classes=num_classes,
        top_k=min(top_k, num_classes),
    )


def top_classes(logits: Tensor, labels: Tensor, top_k: int, superclasses: Tensor | None = None) -> TopClasses:
    """Return the most probable classes of logits that are computed already.

    Args:
        logits: Logits, shape (N, C), on the CPU.
        labels: Classes, shape (N,).
        top_k: K of the scores, at least 2; C where there are fewer classes.
        superclasses: Superclass of each class, shape (C,).
    """
    rows = top_rows(logits, labels, top_k, superclasses)
    return read_rows(rows, labels, logits.shape[1], top_k)
