"""How alike a student and its teacher are inside: their features, and what explains their decisions."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from accelerate import Accelerator
from ignite.exceptions import NotComputableError
from ignite.metrics import Average, Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor, nn

from lineage.errors import UsageError
from lineage.models.stages import StagedNetwork, find_head, map_shapes, stage_names
from lineage.training.engines import freeze, make_evaluator, release
from lineage.training.explanation import explain, explanation_cosines
from lineage.training.maps import Features, Shape
from lineage.training.measurement import Subset

_ROUNDING = 1e4  # of sums that cancel, in units of the last place


def measure_likeness(
    accelerator: Accelerator, student: nn.Module, teacher: nn.Module, subset: Subset
) -> dict[str, float]:
    """Compare two networks on ``subset`` in one pass of both, in float32, on all processes.

    Args:
        accelerator: Accelerator of the processes to use.
        student: Network on the device of the processes, equal on all ranks.
        teacher: Network to compare it with; it is frozen and moved to that device.
        subset: Samples to compare on.

    Returns:
        ``cka``, the linear centred kernel alignment of the spatial means of both networks' last feature maps,
        and ``explanation_similarity``, the mean cosine of their explanations, see ``Explanation``; the
        latter only if both have logits that are linear in those means, and nothing if one has no such maps.
    """
    shape = subset.spec.input_shape
    own, theirs = (_last_stage(network, shape) for network in (student, teacher))
    if not own or not theirs or len(subset) == 0:
        return {}
    freeze(teacher, accelerator.device)
    heads = find_head(student, own, shape), find_head(teacher, theirs, shape)
    pair = _Pair(StagedNetwork(student, [own]), StagedNetwork(teacher, [theirs]), *heads)
    width = map_shapes(student, [own], shape)[0][0]
    metrics: dict[str, Metric] = {"cka": LinearCka(width, _rows, accelerator.device)}
    if pair.heads is not None:
        metrics["explanation_similarity"] = Average(lambda output: _rows(output)[:, -1:], accelerator.device)
    evaluator = make_evaluator(accelerator, pair, metrics, len(subset))
    found = evaluator.run(subset.batches(accelerator)).metrics
    release(evaluator)
    return {name: float(found[name]) for name in metrics}


class LinearCka(Metric):
    """Linear centred kernel alignment of two networks' features, from sums over batches.

    It is ``similarity.linear_cka`` of all rows, without keeping them. Takes rows (n, D + E + 1): features of
    both networks, and a column that is not looked at; gives a number in [0, 1], 0 if the features of either
    network are constant.

    Args:
        width: D.
        output_transform: From the engine's output to the rows.
        device: Device of the sums.
    """

    _state_dict_all_req_keys = ("_products", "_sums", "_num_samples")

    def __init__(self, width: int, output_transform: Any, device: str | torch.device = "cpu") -> None:
        self._width = width
        super().__init__(output_transform, device=device)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget all samples."""
        self._products = torch.zeros((), dtype=self._double_dtype, device=self._device)
        self._sums = torch.zeros((), dtype=self._double_dtype, device=self._device)
        self._num_samples = 0

    @reinit__is_reduced
    def update(self, rows: Tensor) -> None:
        """Add the products and the sums of the batch's features."""
        features = rows[:, :-1].detach().to(self._device, self._double_dtype)
        self._products = self._products + features.T @ features
        self._sums = self._sums + features.sum(0)
        self._num_samples += len(features)

    @sync_all_reduce("_products", "_sums", "_num_samples")
    def compute(self) -> float:
        """The alignment over all samples of all processes."""
        if self._num_samples == 0:
            raise NotComputableError("LinearCka needs at least one sample, but got none.")
        covariance = self._products - torch.outer(self._sums, self._sums) / self._num_samples
        least = _ROUNDING * torch.finfo(covariance.dtype).eps * self._products.abs()
        covariance = covariance.where(covariance.abs() > least, 0)  # what constant features leave
        own, theirs = covariance[: self._width], covariance[self._width :]
        shared = own[:, self._width :].square().sum()
        lengths = own[:, : self._width].norm() * theirs[:, self._width :].norm()
        return float(shared / torch.where(lengths > 0, lengths, 1))


class _Pair(nn.Module):
    """Two networks side by side: rows of features of both, and the cosine of their explanations.

    Args:
        student: The one network, with its last feature maps.
        teacher: The other.
        head: Linear layer from the means of the student's maps to its logits; None if there is none.
        teacher_head: The teacher's.
    """

    def __init__(
        self,
        student: StagedNetwork,
        teacher: StagedNetwork,
        head: nn.Linear | None,
        teacher_head: nn.Linear | None,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.heads = None if head is None or teacher_head is None else (head, teacher_head)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of the student (B, D) and of the teacher (B, E), and the cosine (B, 1)."""
        own_logits, (maps,) = self.student(images)
        logits, (teacher_maps,) = self.teacher(images)
        cosines = torch.zeros(len(images), device=images.device)
        if self.heads is not None:
            head, teacher_head = self.heads
            explained = explain(Features(teacher_maps, logits), logits.argmax(1), teacher_head)
            cosines = explanation_cosines(Features(maps, own_logits), Features(explained, logits), head)
        return torch.cat([maps.mean((2, 3)), teacher_maps.mean((2, 3)), cosines.unsqueeze(1)], 1)


def _rows(output: Mapping[str, Tensor]) -> Tensor:
    return output["logits"]


def _last_stage(network: nn.Module, shape: Shape) -> str:
    """Return the name of the submodule that gives a network's last feature maps; "" if it has none."""
    with suppress(UsageError):
        names = stage_names(network, shape)[-1:]
        map_shapes(network, names, shape)
        return "".join(names)
    return ""
