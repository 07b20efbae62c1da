"""Membership inference: which images trained a network, guessed from how sure it is of their labels.

The score of an image is log(p / (1 - p)), p being the probability of its label. The threshold attack takes
high scores for members, whatever the image: a lower bound of what a network tells. LiRA compares the score
with those that networks give the image which did not train on it.

Source: N. Carlini et al., Membership Inference Attacks From First Principles, 2022 (offline attack); for
students, M. Jagielski et al., Students Parrot Their Teachers, 2023.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from lineage.errors import IntegrityError
from lineage.training.devices import sum_dtype
from lineage.training.measurement import Subset, collect

THRESHOLD, LIRA = "threshold", "lira"
"""Names of the attacks."""

INTERVAL = (2.5, 97.5)
"""Percentiles over shadows, between which a result is likely to lie."""

_FALSE_POSITIVE_RATES = (0.01, 0.001)
_SHADOWS_FOR_OWN_VARIANCE = 64
_SMALLEST_VARIANCE = 1e-12

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ShadowScores:
    """What shadows say of the images of an audit.

    Shadows 2j and 2j + 1 are a pair, which divides images between its two: no image trains both.

    Attributes:
        scores: Score of each image by each shadow, shape (S, N).
        trained: Whether the image trained the shadow, shape (S, N).
    """

    scores: Floats
    trained: Flags

    def out(self) -> Flags:
        """Return which scores count as those of networks that did not see the image, shape (S, N).

        That is one of each pair, for every image: of images that train neither, a coin takes one, so that
        members and others are compared with equally many networks.
        """
        num_pairs, num_images = len(self.trained) // 2, self.trained.shape[1]
        coins = np.random.default_rng(0).integers(2, size=(num_pairs, num_images)).astype(bool)
        first, second = self.trained[::2], self.trained[1::2]
        takes_first = np.where(first | second, second, coins)
        return np.stack([takes_first, ~takes_first], axis=1).reshape(self.trained.shape)


def membership_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of each label's probability p, as the label's logit against all others.

    Neither p nor 1 - p is computed, so that the score of a network that is sure is exact.

    Args:
        logits: Logits, shape (B, C).
        labels: Classes, int64, shape (B,).

    Returns:
        Scores, in the widest type of the device, shape (B,).
    """
    logits = logits.to(sum_dtype(logits.device))
    own = labels.unsqueeze(1)
    others = logits.scatter(1, own, -torch.inf).logsumexp(1)
    return logits.gather(1, own).squeeze(1) - others


def score_images(accelerator: Accelerator, network: nn.Module, subset: Subset, who: str) -> Floats:
    """Score each image of a subset, in one pass in float32 on all processes.

    Args:
        accelerator: Accelerator of the processes.
        network: Network that is not prepared; its weights must be equal on all ranks.
        subset: Images to score.
        who: Name of the network in errors.

    Returns:
        One score for each of the subset's indices, in their order, shape (N,).

    Raises:
        IntegrityError: If a score is not finite.
    """
    scores = collect(
        accelerator,
        network.to(accelerator.device),
        subset,
        lambda passed: membership_scores(passed["logits"], passed["labels"]),
        dtype=sum_dtype(accelerator.device),
    )
    if not scores.isfinite().all():
        num_broken = int((~scores.isfinite()).sum())
        raise IntegrityError(
            f"The logits of {who} must be finite, but those of {num_broken} of {len(scores)} images of"
            f" '{subset.spec.name}' are not; take another version."
        )
    return scores.double().numpy()


def attack_rates(scores: Floats, members: Flags) -> dict[str, float]:
    """Return how well scores tell members from others: ``auc``, and ``tpr_at_fpr_0.01`` and ``…_0.001``.

    Args:
        scores: Scores of N images, higher for members.
        members: Whether each is a member, shape (N,); some are and some are not.
    """
    false, true, _ = roc_curve(members, scores, drop_intermediate=False)
    rates = {f"tpr_at_fpr_{rate}": float(true[false <= rate].max()) for rate in _FALSE_POSITIVE_RATES}
    return {"auc": float(roc_auc_score(members, scores))} | rates


def lira_scores(scores: Floats, others: Floats, out: Flags, own_variance: bool = False) -> Floats:
    """Return how many standard deviations each score lies above those of networks that did not see the image.

    This orders images as LiRA's one-sided likelihood does, and still tells apart those whose likelihood is 1
    to the last digit. Each image has a normal distribution: the mean of the scores that count, and their
    variance, pooled over all images unless there are enough for one of each.

    Args:
        scores: Scores by the network under attack, shape (N,).
        others: Scores by other networks, shape (S, N).
        out: Which of those count, shape (S, N); at least one for every image.
        own_variance: Whether each image has a variance of its own, which takes two scores or more.
    """
    counts = out.sum(0)
    means = np.sum(others, axis=0, where=out) / counts
    squares = np.sum((others - means) ** 2, axis=0, where=out)
    # With one score each there is no variance, but the order does not depend on a pooled one
    pooled = squares.sum() / max((counts - 1).sum(), 1)
    variance = squares / (counts - 1) if own_variance else pooled
    deviations: Floats = (scores - means) / np.sqrt(np.maximum(variance, _SMALLEST_VARIANCE))
    return deviations


def audit_scores(
    scores: Floats, members: Flags, shadows: ShadowScores | None = None
) -> dict[str, dict[str, float]]:
    """Attack a network in every way that there is.

    Args:
        scores: Scores of N images by the network, shape (N,).
        members: Which of them are members, shape (N,).
        shadows: Scores of the same images by shadows, 4 or more; without them there is no LiRA.

    Returns:
        Rates by attack. With shadows, ``low_…`` and ``high_…`` of each rate are percentiles over the shadows,
        each attacked in turn with those of the other pairs.
    """
    if shadows is None:
        return {THRESHOLD: attack_rates(scores, members)}
    out, trained = shadows.out(), shadows.trained
    own_variance = len(trained) >= _SHADOWS_FOR_OWN_VARIANCE

    def lira(target: Floats, pair: int | None) -> Floats:
        others = np.array([number // 2 != pair for number in range(len(trained))])
        return lira_scores(target, shadows.scores[others], out[others], own_variance)

    attacks: Mapping[str, Callable[[Floats, int | None], Floats]] = {
        THRESHOLD: lambda target, _pair: target,
        LIRA: lira,
    }
    results = {}
    for name, attack in attacks.items():
        in_turn = [
            attack_rates(attack(target, number // 2), trained[number])
            for number, target in enumerate(shadows.scores)
        ]
        results[name] = attack_rates(attack(scores, None), members) | _interval(in_turn)
    return results


def _interval(in_turn: list[dict[str, float]]) -> dict[str, float]:
    """Return percentiles of each rate, by its name after ``low_`` and ``high_``."""
    bounds: dict[str, Any] = {
        rate: np.percentile([each[rate] for each in in_turn], INTERVAL) for rate in in_turn[0]
    }
    return {
        f"{side}_{rate}": float(bounds[rate][place])
        for rate in bounds
        for place, side in enumerate(("low", "high"))
    }
