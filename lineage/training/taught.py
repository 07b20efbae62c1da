"""A student as one module with the terms of its loss that compare its feature maps with its teacher's."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lineage.models.stages import StagedNetwork
from lineage.training.maps import Features


class Terms(nn.Module):
    """The terms of one student's loss, with what they train.

    Args:
        terms: Modules of the terms, see ``terms.build_term``.
        weights: Factor of each term.
        stages: Submodule of the student whose maps each term takes.
    """

    def __init__(self, terms: Sequence[nn.Module], weights: Sequence[float], stages: Sequence[str]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.weights = tuple(weights)
        self.stages = tuple(stages)

    def forward(self, student: Sequence[Features], teacher: Sequence[Features]) -> Tensor:
        """Return the weighted sum of the terms for what student and teacher gave, one pair a term."""
        values = [
            weight * term(own, theirs)
            for term, weight, own, theirs in zip(self.terms, self.weights, student, teacher, strict=True)
        ]
        return torch.stack(values).sum()


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

    def forward(
        self, images: Tensor, teacher_maps: Sequence[Tensor], teacher_logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits (B, C), and the sum of the terms for the teacher's maps, one a term, and logits."""
        logits, maps = self.staged(images)
        own = [Features(each, logits) for each in maps]
        theirs = [Features(each, teacher_logits) for each in teacher_maps]
        with torch.autocast(images.device.type, enabled=False):
            return logits, self.terms(own, theirs)

    @classmethod
    def weights_of_student(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the student alone, by its own names."""
        own = (name for name in weights if name.startswith(cls._PREFIX))
        return {name.removeprefix(cls._PREFIX): weights[name] for name in own}
