"""Terms of a student's loss that compare its feature maps with its teacher's.

Each is a module that is called with maps of the student (B, D, H, W) and of the teacher (B, E, H', W'), which
may differ in channels and in size, and returns a scalar, in float32 or more. What it trains itself, such as
an adapter between widths, belongs to the training: it is checkpointed, and never registered. No gradient
reaches the teacher, and nothing waits for the device.
"""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    cosine_similarity,
    linear,
    mse_loss,
    normalize,
    smooth_l1_loss,
)

from lineage.training.distillation import Gather
from lineage.training.gathering import gather_rows
from lineage.training.losses import at_least_float32
from lineage.training.maps import Shape, at_one_size
from lineage.training.prior import Prior


class Hint(nn.Module):
    """Mean square of the difference between the adapted student's maps and the teacher's.

    The adapter is a 1×1 convolution from the student's channels to the teacher's; of two sizes the larger map
    is averaged to the smaller (FitNets, Romero et al., ICLR 2015, arXiv 1412.6550).

    Args:
        shape: Shape of the student's maps.
        teacher_shape: Shape of the teacher's.
    """

    def __init__(self, shape: Shape, teacher_shape: Shape) -> None:
        super().__init__()
        self.adapter = nn.Conv2d(shape[0], teacher_shape[0], 1)

    def forward(self, maps: Tensor, teacher_maps: Tensor) -> Tensor:
        """Return the term for maps of the student and of the teacher."""
        adapted = self.adapter(maps.to(self.adapter.weight.dtype))
        own, theirs = at_one_size(adapted, teacher_maps.detach())
        return mse_loss(own, theirs)


def attention_loss(maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Mean square of the difference between two networks' maps of attention.

    Attention is the mean over channels of the squares, flattened and divided by its length; of two sizes the
    larger map is averaged to the smaller (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928).
    """
    own, theirs = (
        normalize(each.square().mean(1).flatten(1)) for each in at_one_size(maps, teacher_maps.detach())
    )
    return mse_loss(own, theirs)


def relation_loss(
    maps: Tensor,
    teacher_maps: Tensor,
    distances: float = 25.0,
    angles: float = 50.0,
    gather: Gather = gather_rows,
) -> Tensor:
    """Huber loss of distances between samples, as parts of their mean, and of angles between three samples.

    A sample's features are the spatial means of its maps. Samples of all processes are compared; the number
    of angles is the cube of theirs (RKD, Park et al., CVPR 2019, arXiv 1904.05068). One sample has neither
    distances nor angles: the term is 0 then.

    Args:
        maps: Maps of the student, shape (B, D, H, W).
        teacher_maps: Maps of the teacher, shape (B, E, H', W').
        distances: Weight of the distances; the source has 25.
        angles: Weight of the angles; the source has 50.
        gather: Function from the rows of one process to those of all.
    """
    own, theirs = (
        gather(at_least_float32(each).mean((2, 3)).contiguous()) for each in (maps, teacher_maps.detach())
    )
    of_pairs = smooth_l1_loss(_relative_distances(own), _relative_distances(theirs))
    return distances * of_pairs + angles * smooth_l1_loss(_angles(own), _angles(theirs))


class Explanation(nn.Module):
    """One minus the cosine of the two networks' explanations of the class that the teacher finds most likely.

    An explanation is GradCAM's: the positive part of the maps' sum, weighed by the gradient of the class's
    logit. Where logits are a linear layer of the means of the maps, that gradient is the layer's row for the
    class, up to a factor that the cosine does not see (e²KD, Parchami-Araghi et al., ECCV 2024, arXiv
    2402.03119). Of two sizes the larger map is averaged to the smaller.

    Args:
        head: The student's linear layer; it is not copied, so that it learns from the term as well.
        teacher_head: The teacher's.
    """

    teacher_weight: Tensor
    teacher_bias: Tensor

    def __init__(self, head: nn.Linear, teacher_head: nn.Linear) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple it is no submodule, which would count it twice
        bias = teacher_head.bias if teacher_head.bias is not None else torch.zeros(teacher_head.out_features)
        for name, values in (("weight", teacher_head.weight), ("bias", bias)):
            self.register_buffer(f"teacher_{name}", values.detach().clone(), persistent=False)

    def forward(self, maps: Tensor, teacher_maps: Tensor) -> Tensor:
        """Return the term for maps of the student and of the teacher."""
        teacher_maps = teacher_maps.detach()
        weight, bias = (each.to(teacher_maps.dtype) for each in (self.teacher_weight, self.teacher_bias))
        classes = linear(teacher_maps.mean((2, 3)), weight, bias).argmax(1)
        weights = self._head[0].weight.to(maps.dtype)[classes]
        return 1 - explanation_cosines(maps, teacher_maps, weights, weight[classes]).mean()


class _Function(nn.Module):
    """A term without anything to train."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor, teacher_maps: Tensor) -> Tensor:
        return self.function(maps, teacher_maps)


def _build_attention() -> nn.Module:
    return _Function(attention_loss)


def _build_relation(*, gather: Gather) -> nn.Module:
    return _Function(partial(relation_loss, gather=gather))


TERMS: dict[str, Callable[..., nn.Module]] = {
    "hint": Hint,
    "attention": _build_attention,
    "relation": _build_relation,
    "explanation": Explanation,
    "prior": Prior,
}
"""Builders of terms, called with those of ``build_term``'s arguments that their signatures name.

One that takes ``gather`` compares the samples of a batch, which thus cannot be computed in parts.
"""


def build_term(
    name: str,
    shape: Shape,
    teacher_shape: Shape,
    *,
    gather: Gather = gather_rows,
    head: nn.Linear | None = None,
    teacher_head: nn.Linear | None = None,
) -> nn.Module:
    """Return the term ``name``, initialised from torch's global random state.

    Args:
        name: Key of ``TERMS``.
        shape: Shape of the student's maps.
        teacher_shape: Shape of the teacher's.
        gather: Function from the rows of one process to those of all.
        head: The student's linear layer on the means of its maps; needed where ``needs_head``.
        teacher_head: The teacher's.
    """
    given = {
        "shape": shape,
        "teacher_shape": teacher_shape,
        "gather": gather,
        "head": head,
        "teacher_head": teacher_head,
    }
    builder = TERMS[name]
    return builder(**{key: value for key, value in given.items() if _takes(name, key)})


def compares_samples(name: str) -> bool:
    """Return whether a term compares the samples of a batch with each other."""
    return _takes(name, "gather")


def needs_head(name: str) -> bool:
    """Return whether a term needs networks whose logits are a linear layer of the means of their maps."""
    return _takes(name, "head")


def _takes(name: str, parameter: str) -> bool:
    return parameter in inspect.signature(TERMS[name]).parameters


def explanation_cosines(
    maps: Tensor, teacher_maps: Tensor, weights: Tensor, teacher_weights: Tensor
) -> Tensor:
    """Return the cosine of two networks' explanations of one class of each sample, shape (B,).

    Args:
        maps: Maps of the student, shape (B, D, H, W).
        teacher_maps: Maps of the teacher, shape (B, E, H', W').
        weights: Rows of the student's linear layer for the classes, shape (B, D).
        teacher_weights: The teacher's, shape (B, E).
    """
    own, theirs = at_one_size(_explain(maps, weights), _explain(teacher_maps, teacher_weights))
    return cosine_similarity(own.flatten(1), theirs.flatten(1))


def _explain(maps: Tensor, weights: Tensor) -> Tensor:
    """Positive part of maps (B, D, H, W) summed with weights (B, D): shape (B, 1, H, W)."""
    return torch.einsum("bdhw,bd->bhw", maps, weights).relu().unsqueeze(1)


def _relative_distances(rows: Tensor) -> Tensor:
    """Distances (N, N) between rows (N, D), divided by the mean of those that are not 0."""
    # By differences: through a matrix product a row would have a distance from itself
    found = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = found.sum() / (found > 0).sum().clamp_min(1)
    return found / torch.where(mean > 0, mean, 1)


def _angles(rows: Tensor) -> Tensor:
    """Cosines (N, N, N) of the angles at each row (N, D) between the directions to two others."""
    directions = normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
    return directions @ directions.transpose(1, 2)
