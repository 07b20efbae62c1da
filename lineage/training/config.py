"""Settings of one generation's training as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass

from lineage.training.attaching import Attach
from lineage.training.handlers import Schedule


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one generation's training, without data, network and loss.

    Attributes:
        epochs: Number of epochs; 0 registers the initial weights.
        lr: Base learning rate.
        schedule: Factor of the learning rate by epoch.
        seed: Seed of sample order, dropout and all other randomness in training.
        top_k: K of top score difference and secondary mass in the metrics.
        clip_norm: Largest norm of the gradient; not clipped if None.
        average_decay: Decay per step of the weights' moving average; no average if None.
        accumulation: Batches per optimizer step.
        sync_batchnorm: Whether BatchNorm uses the statistics of all processes' batches.
        needs_teacher: Whether the loss looks at the teacher, if there is one; else it is only compared with.
        teacher_warmup: Number of epochs in which the teacher's weight in the loss rises linearly.
        frozen: Names of the network's modules that stay in evaluation mode in training.
        validate_every: Number of epochs from one validation to the next; the last epoch is validated as well.
        patience: Number of epochs without a higher validation accuracy after which training ends early; it
            never does if None.
        generation: Index of the generation, which handlers are told.
        handlers: Handlers of a user's own.
    """

    epochs: int
    lr: float
    schedule: Schedule
    seed: int
    top_k: int
    clip_norm: float | None = None
    average_decay: float | None = None
    accumulation: int = 1
    sync_batchnorm: bool = False
    needs_teacher: bool = True
    teacher_warmup: int = 0
    frozen: Sequence[str] = ()
    validate_every: int = 1
    patience: int | None = None
    generation: int = 0
    handlers: Sequence[Attach] = ()
