"""Losses: four objectives for a patriarch, and the distillation loss of every student.

After Yang et al., *Training Deep Neural Networks in Generations* (AAAI 2019, arXiv 1805.05551). All take
logits of shape (B, C) and class indices of shape (B,) and return the mean over the batch as a scalar. Labels
may also be soft: shares of the classes, shape (B, C), of the logits' type. Logits in half precision are
upcast to float32 first; float64 stays float64. Nothing here waits for the device.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, nll_loss

from lineage.errors import RecipeError
from lineage.extensions import resolve

Objective = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, C) and labels, (B,) or where views are mixed (B, C), to a scalar."""


def top_score_difference(logits: Tensor, k: int) -> Tensor:
    """Mean gap between the top probability and the mean of the ``k - 1`` next ones.

    A strict teacher has a gap near 1. Adding this term to its loss keeps probability on the secondary
    classes, which is what the student learns from (Yang et al., AAAI 2019, arXiv 1805.05551).

    Args:
        logits: Unnormalised scores, shape (B, C).
        k: Number of top classes, from 2 to C.

    Returns:
        Scalar in [0, 1]: 0 when the top ``k`` probabilities are equal, 1 when one class holds them all.

    Raises:
        ValueError: If ``k`` is not in 2..C.
    """
    check_top_k(k, logits.shape[1])
    return _mean_gap(_log_probabilities(logits), k)


def strict_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with one-hot labels: the patriarch of born-again networks (arXiv 1805.04770)."""
    return cross_entropy(at_least_float32(logits), labels)


def tolerant_loss(logits: Tensor, labels: Tensor, strictness: float, top_k: int) -> Tensor:
    """Cross-entropy and top score difference, weighted ``strictness`` to ``1 - strictness``.

    The difference ranks whatever classes score highest, whether or not the label is the first of them
    (Yang et al., AAAI 2019, arXiv 1805.05551).

    Args:
        logits: Unnormalised scores, shape (B, C).
        labels: Class indices, shape (B,).
        strictness: The paper's η, in (0, 1]; 1 is ``strict_loss``.
        top_k: The paper's K, from 2 to C.

    Raises:
        ValueError: If ``strictness`` is not in (0, 1] or ``top_k`` not in 2..C.
    """
    if not 0 < strictness <= 1:
        raise ValueError(f"strictness must be greater than 0 and at most 1, but got {strictness}.")
    check_top_k(top_k, logits.shape[1])
    if strictness == 1:
        return strict_loss(logits, labels)
    log_probabilities = _log_probabilities(logits)
    gap = _mean_gap(log_probabilities, top_k)
    return strictness * _cross_entropy(log_probabilities, labels) + (1 - strictness) * gap


def label_smoothing_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with a part ``smoothing`` of each label spread evenly over all C classes.

    That is ``1 - smoothing`` times the cross-entropy plus ``smoothing`` times the mean over classes of the
    negative log probability (Szegedy et al., CVPR 2016, arXiv 1512.00567).

    Args:
        logits: Unnormalised scores, shape (B, C).
        labels: Class indices, shape (B,).
        smoothing: The ε of the source, in [0, 1); 0 is ``strict_loss``.

    Raises:
        ValueError: If ``smoothing`` is not in [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and less than 1, but got {smoothing}.")
    return cross_entropy(at_least_float32(logits), labels, label_smoothing=smoothing)


def confidence_penalty_loss(logits: Tensor, labels: Tensor, penalty: float) -> Tensor:
    """Cross-entropy minus ``penalty`` times the entropy of the probabilities, in nats.

    May be negative (Pereyra et al., ICLR 2017 workshop, arXiv 1701.06548).

    Args:
        logits: Unnormalised scores, shape (B, C).
        labels: Class indices, shape (B,).
        penalty: The β of the source, at least 0; 0 is ``strict_loss``.

    Raises:
        ValueError: If ``penalty`` is negative.
    """
    if not penalty >= 0:
        raise ValueError(f"penalty must be at least 0, but got {penalty}.")
    if penalty == 0:
        return strict_loss(logits, labels)
    log_probabilities = _log_probabilities(logits)
    negative_entropy = (log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
    return _cross_entropy(log_probabilities, labels) + penalty * negative_entropy


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, label_weight: float, temperature: float
) -> Tensor:
    """Cross-entropy and divergence from the teacher, weighted ``label_weight`` to ``1 - label_weight``.

    The divergence is KL(teacher ‖ student) of the probabilities at ``temperature``, summed over classes and
    averaged over the batch, times ``temperature²`` so that its gradient keeps its size (Hinton et al., 2015,
    arXiv 1503.02531). No gradient reaches the teacher.

    Args:
        logits: The student's unnormalised scores, shape (B, C).
        teacher_logits: The teacher's, of the same view of the same images, shape (B, C).
        labels: Class indices, shape (B,).
        label_weight: The paper's λ, in [0, 1]; at 1 the teacher, at 0 the labels are not looked at.
        temperature: Divisor of both logits in the divergence, greater than 0; the paper has 1.

    Raises:
        ValueError: If ``label_weight`` or ``temperature`` is out of range, or the two logits differ in shape.
    """
    if not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight must be between 0 and 1, but got {label_weight}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, but got {temperature}.")
    if teacher_logits.shape != logits.shape:
        raise ValueError(
            f"teacher_logits must have the shape of logits, {tuple(logits.shape)}, "
            f"but got {tuple(teacher_logits.shape)}."
        )
    if label_weight == 1:
        return strict_loss(logits, labels)
    soft = _log_probabilities(logits, temperature)
    soft_targets = _log_probabilities(teacher_logits.detach(), temperature)
    divergence = temperature**2 * kl_div(soft, soft_targets, reduction="batchmean", log_target=True)
    if label_weight == 0:
        return divergence
    hard = _cross_entropy(soft, labels) if temperature == 1 else strict_loss(logits, labels)
    return label_weight * hard + (1 - label_weight) * divergence


def check_top_k(top_k: int, num_classes: int) -> None:
    """Raise ValueError unless ``top_k`` is in 2..``num_classes``."""
    if not 2 <= top_k <= num_classes:
        raise ValueError(
            f"top_k must be between 2 and the number of classes, {num_classes}, but got {top_k}."
        )


def _build_strict() -> Objective:
    return strict_loss


def _build_tolerant(*, strictness: float, top_k: int) -> Objective:
    return partial(tolerant_loss, strictness=strictness, top_k=top_k)


def _build_label_smoothing(*, smoothing: float) -> Objective:
    return partial(label_smoothing_loss, smoothing=smoothing)


def _build_confidence_penalty(*, penalty: float) -> Objective:
    return partial(confidence_penalty_loss, penalty=penalty)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "tolerant": _build_tolerant,
    "strict": _build_strict,
    "label-smoothing": _build_label_smoothing,
    "confidence-penalty": _build_confidence_penalty,
}
"""Builders of a patriarch's objective; each takes by keyword the settings that its signature names."""

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build_objective(name: str, settings: Mapping[str, float | int]) -> Objective:
    """The objective ``name`` with those of ``settings`` that it uses.

    Args:
        name: A key of ``OBJECTIVES``, or ``package:name`` of an installed package.
        settings: By name; those that the objective does not use are left out.

    Raises:
        RecipeError: If the objective is unknown or needs a setting that is not given.
    """
    objective: Objective = resolve("objective", name, OBJECTIVES)(**objective_settings(name, settings))
    return objective


def objective_settings(name: str, settings: Mapping[str, float | int]) -> dict[str, Any]:
    """The part of ``settings`` that the objective ``name`` depends on, its builder's defaults filled in.

    This is what enters a generation's key: settings of other objectives do not make another generation.

    Args:
        name: A key of ``OBJECTIVES``, or ``package:name`` of an installed package.
        settings: By name.

    Raises:
        RecipeError: If the objective is unknown or needs a setting that is not given.
    """
    builder = resolve("objective", name, OBJECTIVES)
    named = [p for p in inspect.signature(builder).parameters.values() if p.kind not in _VARIADIC]
    used = {p.name: settings.get(p.name, p.default) for p in named}
    missing = [key for key, value in used.items() if value is inspect.Parameter.empty]
    if missing:
        raise RecipeError(
            f"Objective '{name}' needs {' and '.join(missing)}, "
            f"but got {', '.join(settings) or 'no settings'}; set what is missing under [patriarch]."
        )
    return used


def _cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of normalised scores (B, C) with classes (B,) or with shares of classes (B, C)."""
    if labels.ndim == 1:
        return nll_loss(log_probabilities, labels)
    return -(labels * log_probabilities).sum(dim=1).mean()


def _mean_gap(log_probabilities: Tensor, k: int) -> Tensor:
    """Top score difference of normalised scores (B, C)."""
    top = log_probabilities.topk(k, dim=1).values.exp()  # (B, K), falling
    return (top[:, 0] - top[:, 1:].mean(dim=1)).mean()


def _log_probabilities(logits: Tensor, temperature: float = 1) -> Tensor:
    """Log-softmax (B, C) of ``logits / temperature``, in float32 at least."""
    scores = at_least_float32(logits)
    return log_softmax(scores if temperature == 1 else scores / temperature, dim=1)


def at_least_float32(logits: Tensor) -> Tensor:
    """``logits``, upcast where they are in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
