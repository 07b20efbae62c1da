"""How alike two networks are on the same images: in what they predict and in what they see."""

import torch
from torch import Tensor


def agreement(logits: Tensor, other: Tensor) -> float:
    """Share of the N samples that both networks put into the same class, from logits (N, C)."""
    return (logits.argmax(1) == other.argmax(1)).double().mean().item()


def linear_cka(features: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment of two networks' features of the same images.

    1 where one is the other up to rotation and scale, near 0 where they have nothing in common (Kornblith et
    al., ICML 2019, arXiv 1905.00414); in float64.

    Args:
        features: Shape (N, D).
        other: Shape (N, E).

    Returns:
        A number in [0, 1]; 0 where the features of either are constant.
    """
    x, y = (rows.to(torch.float64) - rows.to(torch.float64).mean(0) for rows in (features, other))
    shared = torch.linalg.matrix_norm(y.T @ x).square()
    own = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return (shared / own).item() if own > 0 else 0.0
