"""Losses on labels alone: four objectives for a patriarch.

After Yang et al., *Training Deep Neural Networks in Generations* (AAAI 2019, arXiv 1805.05551). All take
logits of shape (B, C) and class indices of shape (B,) and return the mean over the batch as a scalar. Labels
may also be soft: shares of the classes, shape (B, C), of the logits' type. Logits in half precision are
upcast to float32 first; float64 stays float64. Nothing here waits for the device.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from lineage.errors import RecipeError
from lineage.extensions import resolve, settings_and_options
from lineage.formats import first_line

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
    return _mean_gap(log_probabilities(logits), k)


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
    log_f = log_probabilities(logits)
    return strictness * mean_cross_entropy(log_f, labels) + (1 - strictness) * _mean_gap(log_f, top_k)


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
    log_f = log_probabilities(logits)
    negative_entropy = (log_f.exp() * log_f).sum(dim=1).mean()
    return mean_cross_entropy(log_f, labels) + penalty * negative_entropy


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


def build_objective(name: str, settings: Mapping[str, Any]) -> Objective:
    """The objective ``name`` with those of ``settings`` that it uses.

    Args:
        name: A key of ``OBJECTIVES``, or ``package:name`` of an installed package.
        settings: As for ``objective_settings``.

    Raises:
        RecipeError: If the objective is unknown, does not take an option, or cannot be built.
    """
    builder = resolve("objective", name, OBJECTIVES)
    used = objective_settings(name, settings)
    try:
        objective: Objective = builder(**used)
    except Exception as error:  # a package's builder is any code
        raise RecipeError(
            f"patriarch.objective '{name}' must be built from its settings, {used or 'none'}, but its builder"
            f" fails: {first_line(error)}; correct [patriarch]."
        ) from error
    return objective


def objective_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``settings`` that the objective ``name`` depends on, with the options of its signature.

    This is what enters a generation's key: settings of other objectives do not make another generation.

    Args:
        name: A key of ``OBJECTIVES``, or ``package:name`` of an installed package.
        settings: By name, as in ``[patriarch]``, with a table ``options`` of what its signature names beside
            them.

    Raises:
        RecipeError: If the objective is unknown, takes no such option, or needs one that is not given.
    """
    builder = resolve("objective", name, OBJECTIVES)
    return settings_and_options(f"The objective '{name}'", "patriarch", "options", builder, settings)


def mean_cross_entropy(log_f: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of normalised scores (B, C) with classes (B,) or with shares of classes (B, C)."""
    if labels.ndim == 1:
        return nll_loss(log_f, labels)
    return -(labels * log_f).sum(dim=1).mean()


def _mean_gap(log_f: Tensor, k: int) -> Tensor:
    """Top score difference of normalised scores (B, C)."""
    top = log_f.topk(k, dim=1).values.exp()  # (B, K), falling
    return (top[:, 0] - top[:, 1:].mean(dim=1)).mean()


def log_probabilities(logits: Tensor, temperature: float = 1) -> Tensor:
    """Log-softmax (B, C) of ``logits / temperature``, in float32 at least."""
    scores = at_least_float32(logits)
    return log_softmax(scores if temperature == 1 else scores / temperature, dim=1)


def at_least_float32(logits: Tensor) -> Tensor:
    """``logits``, upcast where they are in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
