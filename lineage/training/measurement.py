"""One pass of a network over part of a data set, in float32, and what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import torch
from accelerate import Accelerator
from ignite.engine import Engine
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lineage.data.augmentation import Augmentation
from lineage.data.batches import evaluation_batches
from lineage.data.images import DataSpec, Images
from lineage.data.views import Batch
from lineage.training.attaching import numbers
from lineage.training.engines import collect_rows, make_evaluator
from lineage.training.metrics import classification_metrics
from lineage.training.top_classes import TopClasses, read_rows, row_width, top_rows


@dataclass(frozen=True)
class Subset:
    """Samples to measure on: some rows of a data set's training or test part.

    Attributes:
        images: Training or test part that ``indices`` points into.
        indices: Rows of the samples, shape (N,), in order.
        spec: Description of the data set.
        batch_size: Images per batch, over all processes.
        workers: Loader processes.
    """

    images: Images
    indices: Tensor
    spec: DataSpec
    batch_size: int
    workers: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def batches(
        self,
        accelerator: Accelerator,
        augmentation: Augmentation | None = None,
        data_seed: int = 0,
        view: int = 0,
    ) -> DataLoader[Batch]:
        """Return batches in order, split between processes; augmented views if an augmentation is given.

        Where processes do not divide the batch size, it is rounded up: a measurement does not depend on it.
        """
        processes = accelerator.num_processes
        loader = evaluation_batches(
            self.images,
            self.spec,
            self.indices,
            -(-self.batch_size // processes) * processes,
            self.workers,
            augmentation,
            data_seed,
            view,
        )
        prepared: DataLoader[Batch] = accelerator.prepare_data_loader(loader)
        return prepared


@dataclass(frozen=True)
class Measurement:
    """Result of one pass of a network over a subset.

    Attributes:
        metrics: Values by name, see ``classification_metrics``.
        logits: Logits of every row of the subset's ``images``, float32, shape (rows, C), on the CPU; rows
            outside the subset are zero. Shape (0,) unless ``keep_logits`` was set.
        top_classes: Most probable classes of the subset's samples, in their order; None unless
            ``keep_top_classes`` was set.
    """

    metrics: dict[str, float]
    logits: Tensor
    top_classes: TopClasses | None = None


def measure(
    accelerator: Accelerator,
    network: nn.Module,
    subset: Subset,
    top_k: int = 2,
    teacher_predictions: Tensor | None = None,
    keep_logits: bool = False,
    keep_top_classes: bool = False,
    attach: Callable[[Engine], None] = lambda _: None,
) -> Measurement:
    """Measure ``network`` on ``subset`` in one pass, in float32, on all processes; each sample counts once.

    Args:
        accelerator: Accelerator of the processes to use.
        network: Network that is not prepared; its weights must be equal on all ranks.
        subset: Samples to measure on.
        top_k: K of top score difference and secondary mass.
        teacher_predictions: Classes that the teacher predicts, by row; no agreement is measured if None.
        keep_logits: Whether to return the logits as well.
        keep_top_classes: Whether to return the most probable classes as well, from the same pass.
        attach: Adds handlers and metrics to the engine that measures; their metrics are returned as well.

    Raises:
        TrainingError: If a metric that was attached is not a number.
    """
    spec = subset.spec
    superclasses = None if spec.superclasses is None else torch.tensor(spec.superclasses)
    metrics = classification_metrics(
        spec.num_classes, top_k, accelerator.device, superclasses, teacher_predictions is not None
    )
    evaluator = make_evaluator(accelerator, network, metrics, len(subset), teacher_predictions)
    rows = torch.zeros(0)
    if keep_logits:
        rows = torch.zeros(len(subset.images), spec.num_classes, device=accelerator.device)
        collect_rows(evaluator, itemgetter("logits"), rows)
    top = torch.zeros(0)
    if keep_top_classes:
        top = torch.zeros(len(subset.images), row_width(spec.num_classes), device=accelerator.device)
        grouped = None if superclasses is None else superclasses.to(accelerator.device)
        collect_rows(
            evaluator, lambda output: top_rows(output["logits"], output["labels"], top_k, grouped), top
        )
    attach(evaluator)
    evaluator.run(subset.batches(accelerator))
    return Measurement(
        numbers(evaluator.state.metrics),
        accelerator.reduce(rows, reduction="sum").cpu() if keep_logits else rows,
        _read_top(accelerator, top, subset, top_k) if keep_top_classes else None,
    )


def _read_top(accelerator: Accelerator, rows: Tensor, subset: Subset, top_k: int) -> TopClasses:
    """Return the most probable classes in rows that each process filled for its own samples."""
    found = accelerator.reduce(rows, reduction="sum").cpu()[subset.indices]
    return read_rows(found, subset.images.labels[subset.indices], subset.spec.num_classes, top_k)
