"""Metrics of one evaluation pass: accuracy, calibration and measures of tolerance.

The evaluator's process function returns a mapping that holds

- ``logits``: float32, shape (n, C);
- ``labels``: class indices, int64, shape (n,);
- ``teacher_predictions``: the teacher's class indices, int64, shape (n,), where agreement is measured.

``n`` may differ from batch to batch and from process to process and may be 0, but every process sees a batch.
Sums stay on the device, in float64 where it has that, and are reduced over processes at the end of the pass.
"""

from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Accuracy, Average, Metric, TopKCategoricalAccuracy
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor
from torch.nn.functional import nll_loss

from lineage.training.losses import check_top_k

Transform = Callable[[Any], Any]

_SCORES = ("cross_entropy", "top_probability", "entropy", "top_score_difference", "secondary_mass")


def classification_metrics(
    num_classes: int,
    top_k: int,
    device: torch.device,
    superclasses: Tensor | None = None,
    with_teacher: bool = False,
) -> dict[str, Metric]:
    """Metrics by name, to be attached to an evaluator whose output the module's docstring describes.

    All are in [0, 1], but for the first two in nats:

    - ``cross_entropy``, and ``entropy`` of the probabilities;
    - ``accuracy``, and ``top5_accuracy`` (the top C where C < 5);
    - ``calibration_error``: see ``CalibrationError``, 15 bins;
    - ``top_probability``: mean of the highest probability;
    - ``top_score_difference``: as in the loss of that name;
    - ``secondary_mass``: mean probability on ranks 2..K;
    - ``superclass_share``, given ``superclasses``: see ``SuperclassShare``;
    - ``agreement``, with a teacher: share of samples that both put into the same class.

    The five means of ``_SCORES`` share one softmax a batch.

    Args:
        num_classes: C.
        top_k: K, at least 2; C where there are fewer classes.
        device: Device of the evaluator's output and of the sums.
        superclasses: Superclass of each class, int64, shape (C,).
        with_teacher: Whether the output holds ``teacher_predictions``.

    Raises:
        ValueError: If ``top_k`` or C is less than 2, or ``superclasses`` is not of shape (C,).
    """
    top_k = min(top_k, num_classes)
    check_top_k(top_k, num_classes)
    predicted = itemgetter("logits", "labels")
    scores = Average(partial(_sample_scores, top_k=top_k), device=device)
    metrics: dict[str, Metric] = {
        "accuracy": Accuracy(predicted, device=device),
        "top5_accuracy": TopKCategoricalAccuracy(min(5, num_classes), predicted, device=device),
        "calibration_error": CalibrationError(output_transform=predicted, device=device),
    }
    metrics |= {name: scores[column] for column, name in enumerate(_SCORES)}
    if superclasses is not None:
        if superclasses.shape != (num_classes,):
            raise ValueError(
                f"superclasses must have one entry for each of {num_classes} classes, "
                f"but its shape is {tuple(superclasses.shape)}."
            )
        metrics["superclass_share"] = SuperclassShare(superclasses, top_k, predicted, device)
    if with_teacher:
        metrics["agreement"] = Accuracy(itemgetter("logits", "teacher_predictions"), device=device)
    return metrics


class CalibrationError(Metric):
    """Expected calibration error: how far confidence lies from accuracy, bin by bin.

    Samples fall by their top probability into bins of equal width over [0, 1], a border belonging to the bin
    below it. The error is the mean over samples of their bin's |accuracy - mean confidence| (Guo et al., ICML
    2017, arXiv 1706.04599). Takes (logits, labels) of shapes (n, C) and (n,); gives a number in [0, 1].

    Args:
        num_bins: Number of bins.
        output_transform: From the engine's output to (logits, labels).
        device: Device of the sums.
    """

    _state_dict_all_req_keys = ("_gaps", "_num_samples")

    def __init__(
        self,
        num_bins: int = 15,
        output_transform: Transform = lambda output: output,
        device: str | torch.device = "cpu",
    ) -> None:
        self._num_bins = num_bins
        super().__init__(output_transform, device=device)
        self._borders = torch.arange(1, num_bins, dtype=self._double_dtype, device=self._device) / num_bins

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget all samples."""
        self._gaps = torch.zeros(self._num_bins, dtype=self._double_dtype, device=self._device)
        self._num_samples = 0

    @reinit__is_reduced
    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add each sample's correctness minus its confidence to its bin."""
        logits, labels = output
        confidences, predictions = logits.detach().to(self._device).softmax(dim=1).max(dim=1)
        confidences = confidences.to(self._double_dtype)
        correct = (predictions == labels.to(self._device)).to(self._double_dtype)
        self._gaps.index_add_(0, torch.bucketize(confidences, self._borders), correct - confidences)
        self._num_samples += len(labels)

    @sync_all_reduce("_gaps", "_num_samples")
    def compute(self) -> float:
        """The error over all samples of all processes."""
        if self._num_samples == 0:
            raise NotComputableError("CalibrationError needs at least one sample, but got none.")
        return self._gaps.abs().sum().item() / self._num_samples


class SuperclassShare(Metric):
    """Part of the secondary mass, on ranks 2..K, whose class lies in the label's superclass.

    Tells whether a network spreads its probability over classes that look alike. It is a share of the mass
    of all samples together, so that confident ones, which have little of it, count little. Takes (logits,
    labels) of shapes (n, C) and (n,); gives a number in [0, 1], 0 where no secondary mass is left.

    Args:
        superclasses: Superclass of each class, int64, shape (C,).
        top_k: K, from 2 to C.
        output_transform: From the engine's output to (logits, labels).
        device: Device of the sums.
    """

    _state_dict_all_req_keys = ("_masses", "_num_samples")

    def __init__(
        self,
        superclasses: Tensor,
        top_k: int,
        output_transform: Transform = lambda output: output,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(output_transform, device=device)
        self._superclasses = superclasses.to(self._device)
        self._top_k = top_k

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget all samples."""
        self._masses = torch.zeros(2, dtype=self._double_dtype, device=self._device)  # inside, everywhere
        self._num_samples = 0

    @reinit__is_reduced
    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Add the batch's secondary mass, inside the labels' superclasses and everywhere."""
        logits, labels = output
        top = logits.detach().to(self._device).softmax(dim=1).topk(self._top_k, dim=1)
        masses, classes = top.values[:, 1:].to(self._double_dtype), top.indices[:, 1:]
        inside = self._superclasses[classes] == self._superclasses[labels.to(self._device)].unsqueeze(1)
        self._masses += torch.stack([(masses * inside).sum(), masses.sum()])
        self._num_samples += len(labels)

    @sync_all_reduce("_masses", "_num_samples")
    def compute(self) -> float:
        """The share over all samples of all processes."""
        if self._num_samples == 0:
            raise NotComputableError("SuperclassShare needs at least one sample, but got none.")
        inside, everywhere = self._masses.tolist()
        return inside / everywhere if everywhere > 0 else 0.0


def _sample_scores(output: Mapping[str, Tensor], top_k: int) -> Tensor:
    """The ``_SCORES`` of each sample, shape (n, 5): ``Average`` counts the rows of a matrix as samples."""
    log_probabilities = output["logits"].log_softmax(dim=1)
    top = log_probabilities.topk(top_k, dim=1).values.exp()
    secondary_mass = top[:, 1:].sum(dim=1)
    columns = {
        "cross_entropy": nll_loss(log_probabilities, output["labels"], reduction="none"),
        "top_probability": top[:, 0],
        "entropy": -(log_probabilities.exp() * log_probabilities).sum(dim=1),
        "top_score_difference": top[:, 0] - secondary_mass / (top_k - 1),
        "secondary_mass": secondary_mass,
    }
    return torch.stack([columns[name] for name in _SCORES], dim=1)
