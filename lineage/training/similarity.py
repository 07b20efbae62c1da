"""Similarity of two networks' features, as a tensor on their device."""

import torch
from torch import Tensor


def linear_cka(features: Tensor, other: Tensor) -> Tensor:
    """Return the linear centred kernel alignment of two networks' features of the same samples.

    It is 1 if one is the other up to rotation and scale, and near 0 if they have nothing in common (Kornblith
    et al., ICML 2019, arXiv 1905.00414).

    Args:
        features: Features of one network, shape (N, D).
        other: Features of the other, shape (N, E).

    Returns:
        Scalar in [0, 1]; 0 if the features of either network are constant.
    """
    x, y = (rows - rows.mean(0) for rows in (features, other))
    shared = (y.T @ x).square().sum()
    own = (x.T @ x).square().sum().sqrt() * (y.T @ y).square().sum().sqrt()
    return shared / torch.where(own > 0, own, 1)
