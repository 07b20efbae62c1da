"""Event handlers of a trainer: learning rate, sample order, checks of the loss, weight average.

Handlers run in the order in which they were attached; ``generation.py`` attaches them as evaluate, report,
checkpoint.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import Tensor, nn
from torch.optim import Optimizer

from lineage.data.batches import TrainingBatches
from lineage.errors import RecipeError, TrainingError
from lineage.extensions import changed_options, named_settings, resolve, settings_and_options
from lineage.formats import first_line
from lineage.training.devices import derive_seed, sum_dtype
from lineage.training.engines import Batch

Schedule = Callable[[float], float]
"""Function from the epochs passed, with fractions, to a factor of the base learning rate."""

_STEPS_BETWEEN_CHECKS = 200
_SAMPLES_LISTED = 64


class AbandonedError(Exception):
    """Raised by a handler, on every rank, to abandon a generation that is not promising; nothing failed."""


def constant() -> Schedule:
    """Return a schedule that keeps the base learning rate."""
    return lambda _epoch: 1.0


def cosine(epochs: int) -> Schedule:
    """Return half a cosine from 1 to 0 (Loshchilov and Hutter, ICLR 2017, without restarts)."""
    return lambda epoch: 0.5 * (1.0 + math.cos(math.pi * min(epoch / epochs, 1.0)))


def step(milestones: Sequence[int], gamma: float) -> Schedule:
    """Return a schedule that multiplies the rate by ``gamma`` at each of ``milestones``, in epochs."""
    return lambda epoch: gamma ** sum(epoch >= milestone for milestone in milestones)


SCHEDULES: dict[str, Callable[..., Schedule]] = {"constant": constant, "cosine": cosine, "step": step}


def build_schedule(name: str, warmup_epochs: float, settings: Mapping[str, Any]) -> Schedule:
    """Return the schedule called ``name``, multiplied by a linear warm-up from 0.

    Args:
        name: A key of ``SCHEDULES``, or ``package:name``.
        warmup_epochs: Length of the warm-up; the schedule itself counts from the start of training.
        settings: As for ``schedule_settings``; the builder gets those that it has parameters for.

    Raises:
        RecipeError: If no schedule has that name, it does not take an option, or cannot be built.
    """
    used = _all_settings(name, settings)
    try:
        schedule: Schedule = resolve("schedule", name, SCHEDULES)(**used)
    except Exception as error:  # a package's builder is any code
        raise RecipeError(
            f"training.schedule '{name}' must be built from its settings, {used or 'none'}, but its builder"
            f" fails: {first_line(error)}; correct [training]."
        ) from error
    if warmup_epochs == 0:
        return schedule
    return lambda epoch: schedule(epoch) * min(1.0, epoch / warmup_epochs)


def schedule_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``settings`` that the schedule ``name`` uses, which enter a generation's key.

    Its options came later, and enter where they are not at the defaults of its signature.

    Args:
        name: A key of ``SCHEDULES``, or ``package:name``.
        settings: By name, as in ``[training]``, with a table ``schedule_options`` of what its signature names
            beside them.

    Raises:
        RecipeError: If no schedule has that name, or it does not take an option.
    """
    builder, used = resolve("schedule", name, SCHEDULES), _all_settings(name, settings)
    return named_settings(builder, settings) | changed_options(builder, used)


def _all_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    builder = resolve("schedule", name, SCHEDULES)
    return settings_and_options(f"The schedule '{name}'", "training", "schedule_options", builder, settings)


def attach_learning_rate(
    trainer: Engine, optimizer: Optimizer, lr: float, schedule: Schedule, accumulation: int
) -> None:
    """Set the learning rate before every step: a function of the iteration, so resuming needs no state.

    A group's ``lr_factor`` multiplies its rate.
    """

    @trainer.on(Events.ITERATION_STARTED)
    def _set_learning_rate(engine: Engine) -> None:
        iterations = (engine.state.iteration - 1) // accumulation * accumulation
        rate = lr * schedule(iterations / (engine.state.epoch_length or 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)


def attach_epoch_order(trainer: Engine, batches: TrainingBatches, loader: Any, seed: int, rank: int) -> None:
    """Start every epoch from its own seed and a fresh pass over the data.

    An epoch then depends on its number alone and not on what ran before it in this process, so a killed run
    continues to the same bits.

    Args:
        trainer: Engine that trains.
        batches: Batches whose order and views are selected by epoch.
        loader: Prepared loader of ``batches``.
        seed: Seed of the generation.
        rank: Rank of this process; dropout differs between ranks.
    """

    @trainer.on(Events.EPOCH_STARTED)
    def _start(engine: Engine) -> None:
        torch.manual_seed(derive_seed("epoch", seed, engine.state.epoch, rank))
        batches.select_epoch(engine.state.epoch)
        engine.set_data(loader)

    @trainer.on(Events.EPOCH_COMPLETED)
    def _leave(_: Engine) -> None:
        loader.end()  # Ignite stops one `next` before Accelerate would notice


class LossGuard:
    """Ends training on every rank soon after the loss of any rank stops being finite.

    The sum of losses, and number and samples of the first batch whose loss is not finite, stay on the device
    and are read now and then, so no step waits for the host.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._sum = torch.zeros((), device=accelerator.device, dtype=sum_dtype(accelerator.device))
        self._count = 0
        self._first = torch.zeros((), device=accelerator.device, dtype=torch.int64)  # from 1; 0: all finite
        self._samples: Tensor | None = None

    def attach(self, trainer: Engine) -> None:
        """Watch the losses that ``trainer`` outputs."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self._reset)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=_STEPS_BETWEEN_CHECKS), self._check)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def mean(self) -> float:
        """Mean loss of the epoch so far, over all ranks."""
        total: Tensor = self.accelerator.reduce(self._sum.clone(), reduction="mean")
        return total.item() / max(self._count, 1)

    def _reset(self, _: Engine) -> None:
        self._sum.zero_()
        self._first.zero_()
        self._count = 0

    def _add(self, engine: Engine) -> None:
        loss = cast(Tensor, engine.state.output)
        self._sum += loss
        self._count += 1
        is_first = (self._first == 0) & ~torch.isfinite(loss)
        self._first += is_first * self._count
        samples = cast(Batch, engine.state.batch)[2]
        self._samples = samples if self._samples is None else torch.where(is_first, samples, self._samples)

    def _check(self, engine: Engine) -> None:
        if not torch.isfinite(self._sum):
            self.accelerator.set_trigger()
        if self.accelerator.check_trigger():
            raise TrainingError(
                f"The training loss must be finite, but is not in epoch {engine.state.epoch},"
                f" {self._describe_first()}; look at these images, or try a lower training.lr, a warm-up"
                " (training.warmup_epochs) or training.clip_norm."
            )

    def _describe_first(self) -> str:
        """Name the first batch whose loss is not finite, over all ranks, and the samples in it."""
        samples = [] if self._samples is None else self._samples.tolist()
        found = gather_object([(int(self._first), samples)])
        batch = min((number for number, _ in found if number), default=None)
        if batch is None:
            return "in the sum over its batches"
        rows = sorted({row for number, part in found if number == batch for row in part})
        listed = ", ".join(map(str, rows[:_SAMPLES_LISTED])) + (", …" if len(rows) > _SAMPLES_LISTED else "")
        return f"from batch {batch} on, which holds the training images {listed}"


def attach_weight_average(trainer: Engine, network: nn.Module, decay: float, accumulation: int) -> nn.Module:
    """Keep an exponential moving average of weights and running statistics, updated once per step.

    Returns:
        The network that holds the average.
    """
    handler = EMAHandler(network, momentum=1.0 - decay, handle_buffers="update")
    handler.attach(trainer, event=Events.ITERATION_COMPLETED(every=accumulation))
    return handler.ema_model
