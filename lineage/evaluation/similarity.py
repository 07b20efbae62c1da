"""Similarity of two networks on the same images: of their predictions and of their features."""

import torch
from torch import Tensor


def agreement(logits: Tensor, other: Tensor) -> float:
    """Return the share of N samples that two networks, by logits (N, C), put into the same class."""
    return (logits.argmax(1) == other.argmax(1)).double().mean().item()


def linear_cka(features: Tensor, other: Tensor) -> float:
    """Return the linear centred kernel alignment of two networks' features of the same images, in float64.

    It is 1 if one is the other up to rotation and scale, and near 0 if they have nothing in common (Kornblith
    et al., ICML 2019, arXiv 1905.00414).

    Args:
        features: Features of one network, shape (N, D).
        other: Features of the other, shape (N, E).

    Returns:
        A number in [0, 1]; 0 if the features of either network are constant.
    """
    x, y = (rows.to(torch.float64) - rows.to(torch.float64).mean(0) for rows in (features, other))
    shared = torch.linalg.matrix_norm(y.T @ x).square()
    own = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return (shared / own).item() if own > 0 else 0.0
