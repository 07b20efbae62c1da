import numpy as np
import pytest
import torch

from lineage.evaluation.similarity import agreement, linear_cka

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(50, 7, generator=GENERATOR)
Y = torch.randn(50, 4, generator=GENERATOR)


def test_cka_equals_its_kernel_form() -> None:
    centre = np.eye(50) - 1 / 50
    kernels = [centre @ (x.double().numpy() @ x.double().numpy().T) @ centre for x in (X, Y)]
    alignment = np.trace(kernels[0] @ kernels[1])
    expected = alignment / np.sqrt(np.trace(kernels[0] @ kernels[0]) * np.trace(kernels[1] @ kernels[1]))
    assert linear_cka(X, Y) == pytest.approx(expected, abs=1e-12)
    assert linear_cka(Y, X) == pytest.approx(expected, abs=1e-12)


def test_cka_ignores_rotation_scale_and_offset() -> None:
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=GENERATOR)).Q
    assert linear_cka(X, 3 * X @ rotation + 1) == pytest.approx(1, abs=1e-6)


def test_cka_of_constant_features_is_zero() -> None:
    assert linear_cka(X, torch.ones(50, 3)) == 0


def test_agreement_is_the_share_of_equal_classes() -> None:
    first = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    second = torch.tensor([[2.0, 0], [3, 1], [1, 0], [0, 4]])
    assert agreement(first, second) == 0.75
