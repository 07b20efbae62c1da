"""Explanations of what a network finds in an image, and the term that makes a student's like its teacher's.

An explanation is GradCAM's for the class that the teacher finds most likely: the positive part of the sum of
a stage's feature maps, each weighed by the mean of the gradient of the class's logit (Selvaraju et al.,
ICCV 2017). Where logits are a linear layer of the means of the maps, that gradient is the layer's row for the
class, up to a factor, and nothing has to be differentiated.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from lineage.training.losses import at_least_float32
from lineage.training.maps import Features, at_one_size


class Explanation(nn.Module):
    """One minus the cosine of the two networks' explanations of the class that the teacher finds most likely.

    The teacher's maps are its explanations, shape (B, 1, H', W'), from ``explain``; a factor does not count.
    Of two sizes the larger map is averaged to the smaller (e²KD, Parchami-Araghi et al., ECCV 2024, arXiv
    2402.03119).

    Args:
        head: The student's linear layer on the means of its maps; it is not copied, so that it learns from
            the term as well. None for a student with another head, whose logits are differentiated instead.
    """

    def __init__(self, head: nn.Linear | None = None) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple it is no submodule, which would count it twice

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Return the term for what student and teacher gave for a batch."""
        return 1 - explanation_cosines(student, teacher, self._head[0]).mean()


def explanation_cosines(student: Features, teacher: Features, head: nn.Linear | None) -> Tensor:
    """Return the cosine of two networks' explanations of the teacher's class, of each sample, shape (B,).

    Args:
        student: Maps and logits of the student.
        teacher: Explanations and logits of the teacher.
        head: The student's linear layer, as for ``explain``.
    """
    classes = teacher.logits.argmax(1)
    own, theirs = at_one_size(explain(student, classes, head), teacher.maps.detach())
    return cosine_similarity(own.flatten(1), theirs.flatten(1))


def explain(features: Features, classes: Tensor, head: nn.Linear | None) -> Tensor:
    """Return explanations, shape (B, 1, H, W), in float32 or more.

    Args:
        features: Maps of a network, and its logits.
        classes: Class to explain for each sample, int64 (B,).
        head: Linear layer that gives the logits from the means of the maps; None to differentiate the logits,
            which must have been computed from the maps with gradients enabled.
    """
    if head is None:
        score = features.logits.gather(1, classes.unsqueeze(1)).sum()
        (gradient,) = torch.autograd.grad(score, features.maps, create_graph=True)
        factors = gradient.mean((2, 3))
    else:
        factors = head.weight[classes]
    maps = at_least_float32(features.maps)
    return torch.einsum("bdhw,bd->bhw", maps, factors.to(maps.dtype)).relu().unsqueeze(1)
