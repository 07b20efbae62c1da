"""Distillation losses: what a student learns from its teacher's logits.

A distillation loss takes the student's logits and the teacher's, both of shape (B, C), and the labels, class
indices of shape (B,) or probabilities of shape (B, C), and returns the mean over the batch as a scalar.
Logits in half precision are upcast to float32 first; float64 stays float64. No gradient reaches the teacher,
and nothing waits for the device.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax

from lineage.training.gathering import gather_rows
from lineage.training.losses import at_least_float32, log_probabilities, mean_cross_entropy, strict_loss

Distillation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From logits (B, C), the teacher's logits (B, C) and labels to a scalar."""

Gather = Callable[[Tensor], Tensor]
"""From the rows of one process to those of all, with gradients."""


def kl_divergence(logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of the probabilities at ``temperature``, times ``temperature²``.

    Summed over classes and averaged over the batch; the factor keeps the size of the gradient (Hinton et al.,
    2015, arXiv 1503.02531). The labels are not looked at.
    """
    del labels
    soft_targets = log_probabilities(teacher_logits.detach(), temperature)
    return _divergence(log_probabilities(logits, temperature), soft_targets, temperature)


def decoupled_divergence(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Decoupled distillation: KL about the label against the rest, and KL among the rest, weighed apart.

    That is ``temperature²`` times ``alpha`` · KL of (p_t, 1 - p_t) plus ``beta`` · KL of the softmax over all
    classes but the label t (Zhao et al., CVPR 2022, arXiv 2203.08679).

    Args:
        logits: The student's unnormalised scores, shape (B, C).
        teacher_logits: The teacher's, shape (B, C).
        labels: Class indices, shape (B,).
        temperature: Divisor of both logits; the source has 4.
        alpha: Weight of the label against the rest; the source has 1.
        beta: Weight of the classes that are not the label; the source has 8, or 2 for its ResNet-56 and 20.

    Raises:
        ValueError: If labels are probabilities, which name no class to decouple.
    """
    if labels.ndim != 1:
        raise ValueError(
            f"labels must be class indices of shape (B,), but are probabilities {tuple(labels.shape)}"
        )
    student, teacher = (
        _decoupled(log_probabilities(scores, temperature), labels)
        for scores in (logits, teacher_logits.detach())
    )
    about_label, among_others = (
        _divergence(own, theirs, temperature) for own, theirs in zip(student, teacher, strict=True)
    )
    return alpha * about_label + beta * among_others


def correlation_distance(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    beta: float = 2.0,
    gamma: float = 2.0,
    gather: Gather = gather_rows,
) -> Tensor:
    """DIST: one minus Pearson's correlation of the probabilities, within samples and within classes.

    That is ``temperature²`` times ``beta`` · mean over samples plus ``gamma`` · mean over classes, whose
    probabilities are compared over the batch of all processes. One sample leaves the second mean undefined;
    it counts 0 then (Huang et al., NeurIPS 2022, arXiv 2205.10536). The labels are not looked at.

    Args:
        logits: The student's unnormalised scores, shape (B, C).
        teacher_logits: The teacher's, shape (B, C).
        labels: Labels, which are not used.
        temperature: Divisor of both logits; the source has 4 on CIFAR-100, 1 on ImageNet.
        beta: Weight of the relations between the classes of a sample; the source has 2.
        gamma: Weight of the relations between the samples of a class; the source has 2.
        gather: Function from the rows of one process to those of all.
    """
    del labels
    student, teacher = (
        log_probabilities(scores, temperature).exp() for scores in (logits, teacher_logits.detach())
    )
    loss = beta * _mean_distance(student, teacher)
    student, teacher = gather(student), gather(teacher)
    if len(student) > 1:
        loss = loss + gamma * _mean_distance(student.T, teacher.T)
    return temperature**2 * loss


def standardised(logits: Tensor) -> Tensor:
    """Return each sample's logits (B, C) with mean 0 and (unbiased) standard deviation 1.

    A student then need not match the scale of its teacher's logits (Sun et al., CVPR 2024, arXiv 2403.01427).
    """
    scores = at_least_float32(logits)
    return (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-7)


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    label_weight: float,
    temperature: float,
    loss_weight: float | None = None,
) -> Tensor:
    """Cross-entropy and KL divergence from the teacher, weighted ``label_weight`` to ``loss_weight``.

    Args:
        logits: The student's unnormalised scores, shape (B, C).
        teacher_logits: The teacher's, of the same view of the same images, shape (B, C).
        labels: Class indices, shape (B,).
        label_weight: The paper's λ, in [0, 1]; at 0 the labels are not looked at.
        temperature: Divisor of both logits in the divergence, greater than 0; the paper has 1.
        loss_weight: Weight of ``kl_divergence``, 1 - λ by default; at 0 the teacher is not looked at.

    Raises:
        ValueError: If a weight or ``temperature`` is out of range, or the two logits differ in shape.
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
    loss_weight = 1 - label_weight if loss_weight is None else loss_weight
    if loss_weight == 0:
        return label_weight * strict_loss(logits, labels)
    soft = log_probabilities(logits, temperature)
    soft_targets = log_probabilities(teacher_logits.detach(), temperature)
    divergence = loss_weight * _divergence(soft, soft_targets, temperature)
    if label_weight == 0:
        return divergence
    # At a temperature of 1 labels and teacher share one softmax
    hard = mean_cross_entropy(soft, labels) if temperature == 1 else strict_loss(logits, labels)
    return label_weight * hard + divergence


def _build_kl(*, temperature: float) -> Distillation:
    return partial(kl_divergence, temperature=temperature)


def _build_dkd(*, temperature: float, alpha: float = 1.0, beta: float = 8.0) -> Distillation:
    _require_weights(alpha=alpha, beta=beta)
    return partial(decoupled_divergence, temperature=temperature, alpha=alpha, beta=beta)


def _build_dist(*, temperature: float, gather: Gather, beta: float = 2.0, gamma: float = 2.0) -> Distillation:
    _require_weights(beta=beta, gamma=gamma)
    return partial(correlation_distance, temperature=temperature, beta=beta, gamma=gamma, gather=gather)


DISTILLATIONS: dict[str, Callable[..., Distillation]] = {
    "kl": _build_kl,
    "dkd": _build_dkd,
    "dist": _build_dist,
}
"""Builders of distillation losses, each called with the keyword arguments that its signature names.

``temperature`` is that of the recipe; ``gather`` is ``gather_rows``, for a loss that compares the samples of
a batch, which thus cannot be computed in parts; all others are ``[student.options]``.
"""


def _divergence(log_student: Tensor, log_teacher: Tensor, temperature: float) -> Tensor:
    """``temperature²`` · KL of log-probabilities, mean over the batch."""
    return temperature**2 * kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _decoupled(log_p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split log-probabilities (B, C) into those of (label, rest), (B, 2), and among the rest, (B, C - 1)."""
    column = labels.unsqueeze(1)
    others = torch.arange(log_p.shape[1] - 1, device=log_p.device)
    rest = log_p.gather(1, others + (others >= column))  # indexing by a mask would wait for the device
    about_label = torch.cat([log_p.gather(1, column), rest.logsumexp(1, keepdim=True)], dim=1)
    return about_label, log_softmax(rest, dim=1)


def _mean_distance(rows: Tensor, other: Tensor) -> Tensor:
    """Mean over rows of one minus Pearson's correlation; a constant row correlates with nothing."""
    centred, others = (values - values.mean(1, keepdim=True) for values in (rows, other))
    return 1 - cosine_similarity(centred, others, dim=1, eps=1e-8).mean()


def _require_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must be at least 0, but got {weight}")
