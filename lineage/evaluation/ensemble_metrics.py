"""Ensembles of generations: the mean of their probabilities, from logits that were computed once."""

from collections.abc import Mapping, Sequence

import torch
from ignite.engine import Engine
from torch import Tensor

from lineage.data.images import DataSpec
from lineage.training.metrics import classification_metrics


class RunningMean:
    """The mean of the probabilities of the generations so far, in float64.

    Args:
        labels: Classes of the N samples, shape (N,).
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.size = 0
        self._sum: Tensor | None = None
        self._total = 0.0

    def add(self, logits: Tensor, weight: float = 1.0) -> None:
        """Take in one more member's logits, shape (N, C)."""
        share = weight * logits.to(torch.float64).softmax(1)
        self._sum = share if self._sum is None else self._sum + share
        self._total += weight
        self.size += 1

    @property
    def probabilities(self) -> Tensor:
        """Mean over the members, float64 of shape (N, C).

        Raises:
            ValueError: If it has no member.
        """
        if self._sum is None:
            raise ValueError("An ensemble must have at least one member, but has none.")
        return self._sum / self._total

    @property
    def accuracy(self) -> float:
        """Share of the samples whose label is the ensemble's top class."""
        return (self.probabilities.argmax(1) == self.labels).double().mean().item()


def score(probabilities: Tensor, labels: Tensor, spec: DataSpec, top_k: int) -> dict[str, float]:
    """The metrics of probabilities that are known already.

    Args:
        probabilities: Shape (N, C), each row summing to 1.
        labels: Classes, shape (N,).
        spec: Of the data.
        top_k: K of top score difference and secondary mass.

    Returns:
        What ``classification_metrics`` gives, by name.
    """
    superclasses = None if spec.superclasses is None else torch.tensor(spec.superclasses)
    smallest = torch.finfo(probabilities.dtype).tiny
    return score_logits(probabilities.clamp_min(smallest).log(), labels, top_k, superclasses)


def score_logits(
    logits: Tensor, labels: Tensor, top_k: int, superclasses: Tensor | None = None
) -> dict[str, float]:
    """The metrics of logits that are known already.

    Args:
        logits: Shape (N, C).
        labels: Classes, shape (N,).
        top_k: K of top score difference and secondary mass.
        superclasses: Of each class, shape (C,).

    Returns:
        What ``classification_metrics`` gives, by name.
    """
    metrics = classification_metrics(logits.shape[1], top_k, torch.device("cpu"), superclasses)
    output: Mapping[str, Tensor] = {"logits": logits, "labels": labels}
    evaluator = Engine(lambda _engine, batch: batch)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    evaluator.run([output])
    return {name: float(evaluator.state.metrics[name]) for name in metrics}


def score_prefixes(
    logits: Sequence[Tensor], weights: Sequence[float], labels: Tensor, spec: DataSpec, top_k: int
) -> list[dict[str, float]]:
    """The metrics of the ensembles of the first, the first two, … of several members.

    Args:
        logits: One (N, C) a member.
        weights: One a member.
        labels: Classes, shape (N,).
        spec: Of the data.
        top_k: K of the metrics.
    """
    ensemble = RunningMean(labels)
    found = []
    for member, weight in zip(logits, weights, strict=True):
        ensemble.add(member, weight)
        found.append(score(ensemble.probabilities, labels, spec, top_k))
    return found
