"""Similarity of two networks on the same images: of their predictions and of their features."""

import torch
from torch import Tensor

from lineage.training import similarity


def agreement(logits: Tensor, other: Tensor) -> float:
    """Return the share of N samples that two networks, by logits (N, C), put into the same class."""
    return (logits.argmax(1) == other.argmax(1)).double().mean().item()


def linear_cka(features: Tensor, other: Tensor) -> float:
    """Return the linear centred kernel alignment of two networks' features, computed in float64.

    See ``lineage.training.similarity.linear_cka``.
    """
    return similarity.linear_cka(features.to(torch.float64), other.to(torch.float64)).item()
