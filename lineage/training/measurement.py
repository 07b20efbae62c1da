"""One pass of a network over part of a data set, in float32, and what came out."""

from dataclasses import dataclass
from operator import itemgetter

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lineage.data.batches import Augmentation, Batch, evaluation_batches
from lineage.data.datasets import DataSpec, Images
from lineage.training.engines import collect_rows, make_evaluator
from lineage.training.metrics import classification_metrics


@dataclass(frozen=True)
class Subset:
    """Samples to measure on: some rows of a data set's training or test part.

    Attributes:
        images: The whole part that ``indices`` points into.
        indices: Rows to look at, shape (N,), in order.
        spec: Of the data set.
        batch_size: Over all processes.
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
        """Batches in order, split between the processes; of views where an augmentation is given."""
        loader = evaluation_batches(
            self.images,
            self.spec,
            self.indices,
            self.batch_size,
            self.workers,
            augmentation,
            data_seed,
            view,
        )
        prepared: DataLoader[Batch] = accelerator.prepare_data_loader(loader)
        return prepared


@dataclass(frozen=True)
class Measurement:
    """One pass of a network over a part.

    Attributes:
        metrics: By name, see ``classification_metrics``.
        logits: Of every row of the part's images, float32, shape (rows, C), on the CPU; of shape (0,) unless
            asked for. Rows that are not in the part are zero.
    """

    metrics: dict[str, float]
    logits: Tensor


def measure(
    accelerator: Accelerator,
    network: nn.Module,
    part: Subset,
    top_k: int = 2,
    teacher_predictions: Tensor | None = None,
    keep_logits: bool = False,
) -> Measurement:
    """Pass ``network`` over ``part`` once, in float32, on all processes; each sample counts once.

    Args:
        accelerator: The processes to use.
        network: Evaluated as it is; its weights must be equal on all ranks.
        part: What to look at.
        top_k: K of top score difference and secondary mass.
        teacher_predictions: Classes that the teacher predicts, by row; None leaves agreement out.
        keep_logits: Whether to return the logits, too.
    """
    spec = part.spec
    superclasses = None if spec.superclasses is None else torch.tensor(spec.superclasses)
    metrics = classification_metrics(
        spec.num_classes, top_k, accelerator.device, superclasses, teacher_predictions is not None
    )
    evaluator = make_evaluator(accelerator, network, metrics, len(part), teacher_predictions)
    rows = torch.zeros(0)
    if keep_logits:
        rows = torch.zeros(len(part.images), spec.num_classes, device=accelerator.device)
        collect_rows(evaluator, itemgetter("logits"), rows)
    evaluator.run(part.batches(accelerator))
    values = {name: float(evaluator.state.metrics[name]) for name in metrics}
    if not keep_logits:
        return Measurement(values, rows)
    return Measurement(values, accelerator.reduce(rows, reduction="sum").cpu())
