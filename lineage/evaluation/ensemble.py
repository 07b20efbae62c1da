"""Ensembles of generations: the mean of their probabilities."""

import torch
from torch import Tensor


class RunningEnsemble:
    """The mean of the probabilities of the generations so far, each passed over the data once.

    Args:
        labels: Classes of the N samples, shape (N,).
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.size = 0
        self._sum: Tensor | None = None

    def add(self, probabilities: Tensor) -> None:
        """Take in one more member's probabilities, shape (N, C)."""
        double = probabilities.to(torch.float64)
        self._sum = double if self._sum is None else self._sum + double
        self.size += 1

    @property
    def probabilities(self) -> Tensor:
        """Mean over the members, float64 of shape (N, C).

        Raises:
            ValueError: If it has no member.
        """
        if self._sum is None:
            raise ValueError("An ensemble must have at least one member, but has none.")
        return self._sum / self.size

    @property
    def accuracy(self) -> float:
        """Share of the samples whose label is the ensemble's top class."""
        return (self.probabilities.argmax(1) == self.labels).double().mean().item()
