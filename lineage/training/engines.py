"""The two Ignite engines of a generation: one takes optimizer steps, the other looks at data in order."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from accelerate import Accelerator
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lineage.training.losses import at_least_float32

Batch = tuple[Tensor, ...]
"""Images (B, C, H, W), labels (B,), or (B, C) of mixed views, sample indices (B,), and what is stored of a
teacher, if anything."""

Loss = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
"""From logits (B, C), labels (B,), the teacher's logits (B, C) or None, and the share of the teacher's weight
that counts in this epoch, in [0, 1], to a scalar."""

Teach = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, list[Tensor]]]
"""From images and what is stored of a teacher, as in a batch, to its logits (B, C), in float32 or more, and
to the feature maps (B, D, H, W) that the terms of the loss take; none without terms.
"""


def make_trainer(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    teach: Teach | None = None,
    clip_norm: float | None = None,
    teacher_warmup: int = 0,
    frozen: Sequence[nn.Module] = (),
) -> Engine:
    """Return an engine that trains: one batch per iteration, one optimizer step per ``accumulation`` batches.

    The engine's output is the detached loss, left on the device.

    Args:
        accelerator: Accelerator that prepared ``network`` and ``optimizer``.
        network: Prepared network to train; with terms, a ``TaughtNetwork``.
        optimizer: Prepared optimizer of its parameters.
        loss: Loss to minimise.
        teach: Function that returns what a batch needs of the teacher; None if the loss needs nothing.
        clip_norm: Largest norm of the gradient; not clipped if None.
        teacher_warmup: Number of epochs in which the teacher's weight rises linearly, the first included.
        frozen: Parts of the network that stay in evaluation mode.
    """

    def step(engine: Engine, batch: Batch) -> Tensor:
        images, labels, _indices, *stored = batch
        share = min(engine.state.epoch / teacher_warmup, 1.0) if teacher_warmup else 1.0
        with accelerator.accumulate(network):
            teacher_logits, maps = (None, []) if teach is None else teach(images, stored)
            with accelerator.autocast():
                logits, terms = network(images, maps, teacher_logits) if maps else (network(images), None)
            value = loss(at_least_float32(logits), labels, teacher_logits, share)
            if terms is not None:
                value = value + share * terms
            accelerator.backward(value)
            if clip_norm is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), clip_norm)
            take_step()
        return value.detach()

    take_step = _step_of(accelerator, optimizer)
    trainer = Engine(step)

    @trainer.on(Events.EPOCH_STARTED)
    def _set_modes(_: Engine) -> None:
        network.train()
        for module in frozen:
            module.training = False  # its parts are in the list as well

    return trainer


def _step_of(accelerator: Accelerator, optimizer: Optimizer) -> Callable[[], None]:
    """Return what takes a step and forgets the gradients, unless more batches are accumulated for it.

    Accelerate's optimizer looks for an installed package and at signatures every time, which takes longer
    than a small network's step; it is needed for scaled losses alone.
    """
    used = optimizer if accelerator.scaler is not None else getattr(optimizer, "optimizer", optimizer)

    def take_step() -> None:
        if accelerator.sync_gradients:
            used.step()
            used.zero_grad()

    return take_step


def freeze(network: nn.Module, device: torch.device) -> nn.Module:
    """Put a teacher on ``device``, in evaluation mode and without gradients; return it."""
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload,no-any-return]


def make_evaluator(
    accelerator: Accelerator,
    network: nn.Module,
    metrics: dict[str, Metric],
    num_samples: int,
    teacher_predictions: Tensor | None = None,
    autocast: bool = False,
) -> Engine:
    """Return an engine that passes in order over ``num_samples`` samples and updates ``metrics``.

    It runs in float32 whatever the training precision, so that the numbers are those of the registered
    weights, unless ``autocast`` is set. Accelerate fills the last batch with repeated samples so that all
    processes take part; they are cut off again by position, so every sample counts once.

    Args:
        accelerator: Accelerator that prepared the loader.
        network: Network that is not prepared; its weights must be equal on all ranks.
        metrics: Metrics by name, computed when the pass is complete.
        num_samples: Number of samples in the pass, over all processes.
        teacher_predictions: Classes that the teacher predicts, in the order of the pass; None without one.
        autocast: Whether to use the training precision.
    """
    whole = 0

    def step(engine: Engine, batch: Batch) -> dict[str, Tensor]:
        nonlocal whole
        images, labels, indices = batch
        passed = (engine.state.iteration - 1) % (engine.state.epoch_length or 1)
        if passed == 0:
            whole = len(labels)  # the last batch may be smaller
        start = (passed * accelerator.num_processes + accelerator.process_index) * whole
        keep = min(max(num_samples - start, 0), len(labels))
        network.eval()
        with torch.inference_mode(), _precision(accelerator, autocast):
            logits = network(images)[:keep].float()
        positions = torch.arange(start, start + keep, device=logits.device)
        output = {
            "logits": logits,
            "labels": labels[:keep],
            "indices": indices[:keep],
            "positions": positions,
        }
        if teacher_predictions is not None:
            output["teacher_predictions"] = teacher_predictions[positions]
        return output

    evaluator = Engine(step)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, _leave_loader)
    return evaluator


def _precision(accelerator: Accelerator, autocast: bool) -> AbstractContextManager[None]:
    return accelerator.autocast() if autocast else torch.autocast(accelerator.device.type, enabled=False)


def collect_rows(evaluator: Engine, row: Callable[[dict[str, Tensor]], Tensor], into: Tensor) -> None:
    """Write what ``row`` makes of an output, shape (n, …), into ``into`` by positions in the pass."""

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _write(engine: Engine) -> None:
        output = cast(dict[str, Tensor], engine.state.output)
        into[output["positions"]] = row(output).to(into.dtype)


def release(engine: Engine) -> None:
    """Let go of all that an engine that has run refers to, so that nothing waits for the collector."""
    engine._event_handlers.clear()
    engine.state.dataloader = None
    engine._dataloader_iter = None


def _leave_loader(engine: Engine) -> None:
    """Tell Accelerate that its loader is done: Ignite stops one ``next`` before it would notice."""
    loader: DataLoader[Any] | None = engine.state.dataloader  # type: ignore[assignment]
    if loader is not None and hasattr(loader, "end"):
        loader.end()
