"""Terms of a student's loss that compare its feature maps with its teacher's.

Each is a module that is called with maps of the student (B, D, H, W) and of the teacher (B, E, H', W'), which
may differ in channels and in size, and returns a scalar, in float32 or more. What it trains itself, such as
an adapter between widths, belongs to the training: it is checkpointed, and never registered. No gradient
reaches the teacher, and nothing waits for the device.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss, normalize, smooth_l1_loss

from lineage.models.stages import StagedNetwork
from lineage.training.distillation import Gather
from lineage.training.gathering import gather_rows
from lineage.training.losses import at_least_float32

Shape = tuple[int, int, int]
"""(D, H, W) of a feature map."""


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


class _Function(nn.Module):
    """A term without anything to train."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor, teacher_maps: Tensor) -> Tensor:
        return self.function(maps, teacher_maps)


def _build_attention(_shape: Shape, _teacher_shape: Shape) -> nn.Module:
    return _Function(attention_loss)


def _build_relation(_shape: Shape, _teacher_shape: Shape, *, gather: Gather) -> nn.Module:
    return _Function(partial(relation_loss, gather=gather))


TERMS: dict[str, Callable[..., nn.Module]] = {
    "hint": Hint,
    "attention": _build_attention,
    "relation": _build_relation,
}
"""Builders of terms, called with the shapes of the student's and the teacher's maps.

One that takes ``gather`` compares the samples of a batch, which thus cannot be computed in parts.
"""


class Terms(nn.Module):
    """The terms of one student's loss, with what they train.

    Args:
        names: Keys of ``TERMS``.
        weights: Factor of each term.
        stages: Submodule of the student whose maps each term takes.
        shapes: Shapes of these maps.
        teacher_shapes: Shapes of the teacher's maps that each term takes.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        stages: Sequence[str],
        shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
    ) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.stages = tuple(stages)
        self.terms = nn.ModuleList(
            TERMS[name](own, theirs, **({"gather": gather_rows} if compares_samples(name) else {}))
            for name, own, theirs in zip(names, shapes, teacher_shapes, strict=True)
        )

    def forward(self, maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the terms for maps of the student and of the teacher."""
        values = [
            weight * term(at_least_float32(own), at_least_float32(theirs))
            for term, weight, own, theirs in zip(self.terms, self.weights, maps, teacher_maps, strict=True)
        ]
        return torch.stack(values).sum()


def compares_samples(name: str) -> bool:
    """Return whether a term compares the samples of a batch with each other."""
    return "gather" in inspect.signature(TERMS[name]).parameters


class TaughtNetwork(nn.Module):
    """A student together with the terms that compare its maps with its teacher's.

    One module, so that adapters are prepared, averaged and checkpointed with the student.

    Args:
        network: The student.
        terms: Terms that take its maps.
    """

    _PREFIX = "staged.network."

    def __init__(self, network: nn.Module, terms: Terms) -> None:
        super().__init__()
        self.staged = StagedNetwork(network, terms.stages)
        self.terms = terms

    @property
    def student(self) -> nn.Module:
        """The student alone."""
        return self.staged.network

    def forward(self, images: Tensor, teacher_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (B, C), and the sum of the terms for the teacher's maps."""
        logits, maps = self.staged(images)
        with torch.autocast(images.device.type, enabled=False):
            return logits, self.terms(maps, teacher_maps)

    @classmethod
    def weights_of_student(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the student alone, by its own names."""
        own = (name for name in weights if name.startswith(cls._PREFIX))
        return {name.removeprefix(cls._PREFIX): weights[name] for name in own}


def at_one_size(maps: Tensor, teacher_maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return two networks' maps in float32 or more, each averaged to the smaller height and width."""
    height, width = map(min, zip(maps.shape[2:], teacher_maps.shape[2:], strict=True))
    size = (height, width)
    own, theirs = (
        each if each.shape[2:] == size else adaptive_avg_pool2d(each, size)
        for each in (at_least_float32(maps), at_least_float32(teacher_maps))
    )
    return own, theirs


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
