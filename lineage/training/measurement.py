"""One pass of a network over part of a data set, in float32, and what came out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import torch
from accelerate import Accelerator
from ignite.engine import Engine
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lineage.data.augmentation import Augmentation
from lineage.data.batches import ViewOrder, evaluation_batches
from lineage.data.images import DataSpec, Images
from lineage.data.views import Batch
from lineage.data.workers import stop_workers
from lineage.training.attaching import numbers
from lineage.training.engines import collect_rows, make_evaluator, release
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
    _loaders: dict[Accelerator, DataLoader[Batch]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, accelerator: Accelerator) -> DataLoader[Batch]:
        """Return batches in order, split between processes: one loader, with its workers, until ``close``."""
        if accelerator not in self._loaders:
            self._loaders[accelerator] = self._prepare(accelerator)
        return self._loaders[accelerator]

    def views(
        self, accelerator: Accelerator, augmentation: Augmentation, data_seed: int
    ) -> tuple[DataLoader[Batch], ViewOrder]:
        """Return a loader of augmented views in order, and what selects the view of its next pass."""
        order = ViewOrder(len(self))
        return self._prepare(accelerator, augmentation, data_seed, order), order

    def close(self) -> None:
        """End the workers of its loaders."""
        for loader in self._loaders.values():
            stop_workers(loader)
        self._loaders.clear()

    def _prepare(
        self,
        accelerator: Accelerator,
        augmentation: Augmentation | None = None,
        data_seed: int = 0,
        order: ViewOrder | None = None,
    ) -> DataLoader[Batch]:
        processes = accelerator.num_processes
        batch_size = -(-self.batch_size // processes) * processes  # no measurement depends on it
        loader = evaluation_batches(
            self.images,
            self.spec,
            self.indices,
            batch_size,
            self.workers,
            augmentation,
            data_seed,
            order,
        )
        prepared: DataLoader[Batch] = accelerator.prepare_data_loader(loader)
        return prepared


@dataclass(frozen=True)
class Measurement:
    """Result of one pass of a network over a subset.

    Attributes:
        metrics: Values by name, see ``classification_metrics``.
        logits: Logits of the subset's samples, in their order, float32, shape (N, C), on the CPU. Shape (0,)
            unless ``keep_logits`` was set.
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
        teacher_predictions: Classes that the teacher predicts, shape (N,); no agreement is measured if None.
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
        rows = torch.zeros(len(subset), spec.num_classes, device=accelerator.device)
        collect_rows(evaluator, itemgetter("logits"), rows)
    top = torch.zeros(0)
    if keep_top_classes:
        top = torch.zeros(len(subset), row_width(spec.num_classes), device=accelerator.device)
        grouped = None if superclasses is None else superclasses.to(accelerator.device)
        collect_rows(
            evaluator, lambda output: top_rows(output["logits"], output["labels"], top_k, grouped), top
        )
    attach(evaluator)
    evaluator.run(subset.batches(accelerator))
    release(evaluator)
    return Measurement(
        numbers(evaluator.state.metrics),
        accelerator.reduce(rows, reduction="sum").cpu() if keep_logits else rows,
        _read_top(accelerator, top, subset, top_k) if keep_top_classes else None,
    )


def _read_top(accelerator: Accelerator, rows: Tensor, subset: Subset, top_k: int) -> TopClasses:
    """Return the most probable classes in rows that each process filled for its own samples."""
    found = accelerator.reduce(rows, reduction="sum").cpu()
    return read_rows(found, subset.images.labels[subset.indices], subset.spec.num_classes, top_k)


def collect(
    accelerator: Accelerator,
    network: nn.Module,
    subset: Subset,
    row: Callable[[dict[str, Tensor]], Tensor],
    width: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return one row for each sample of ``subset``, from one pass in float32 on all processes.

    Args:
        accelerator: Accelerator of the processes to use.
        network: Network that is not prepared; its weights must be equal on all ranks.
        subset: Samples to pass through.
        row: Function from a batch's ``logits`` (n, C) and ``labels`` (n,) to its rows, shape (n, *width).
        width: Shape of a row.
        dtype: Type of a row.

    Returns:
        Rows in the order of the samples, shape (N, *width), on the CPU.
    """
    rows = torch.zeros(len(subset), *width, dtype=dtype, device=accelerator.device)
    evaluator = make_evaluator(accelerator, network, {}, len(subset))
    collect_rows(evaluator, row, rows)
    evaluator.run(subset.batches(accelerator))
    release(evaluator)
    found: Tensor = accelerator.reduce(rows, reduction="sum").cpu()
    return found
