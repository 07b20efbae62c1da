"""The two Ignite engines of a generation: one takes optimizer steps, the other looks at a data set once."""

from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate import Accelerator
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, C, H, W), labels (B,) and sample indices (B,)."""

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From logits (B, C), labels (B,) and the teacher's logits (B, C), or None, to a scalar."""


def make_trainer(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    teacher: nn.Module | None = None,
    clip_norm: float | None = None,
) -> Engine:
    """An engine whose iterations are batches of one optimizer step, or of a part of it under accumulation.

    The teacher sees the very view that the student sees. It must be frozen and in evaluation mode
    (``freeze``); its logits are upcast to float32 before the loss. The engine's output is the detached loss,
    left on the device.

    Args:
        accelerator: What prepared ``network`` and ``optimizer``.
        network: The prepared network that learns.
        optimizer: The prepared optimizer of its parameters.
        loss: What is minimised.
        teacher: Network whose logits the loss gets, on the accelerator's device and not prepared.
        clip_norm: Largest norm of the gradient; None leaves it alone.
    """

    def step(_: Engine, batch: Batch) -> Tensor:
        images, labels, _indices = batch
        network.train()
        with accelerator.accumulate(network):
            teacher_logits = None
            if teacher is not None:
                with torch.inference_mode(), accelerator.autocast():
                    teacher_logits = teacher(images)
                teacher_logits = (
                    teacher_logits.float().clone()
                )  # a clone may be saved for backward, an inference tensor not
            with accelerator.autocast():
                logits = network(images)
            value = loss(logits.float(), labels, teacher_logits)
            accelerator.backward(value)
            if clip_norm is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        return value.detach()

    return Engine(step)


def freeze(network: nn.Module, device: torch.device) -> nn.Module:
    """A teacher's state: on ``device``, running statistics in BatchNorm, no gradients."""
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload,no-any-return]


def make_evaluator(
    accelerator: Accelerator,
    network: nn.Module,
    metrics: dict[str, Metric],
    num_samples: int,
    teacher_predictions: Tensor | None = None,
) -> Engine:
    """An engine that passes once, in order, over a data set of ``num_samples`` and updates ``metrics``.

    It runs in float32 whatever the training precision, so that the numbers are those of the registered
    weights. Accelerate fills the last batch up with repeated samples so that all processes take part; they
    are cut off again by position, so metrics count every sample once.

    Args:
        accelerator: What prepared the loader.
        network: Not prepared: its weights must be equal on all ranks.
        metrics: By name; each is computed when the pass is complete.
        num_samples: N, the length of the data that will be passed over.
        teacher_predictions: The teacher's classes by sample index, or None.
    """

    def step(engine: Engine, batch: Batch) -> dict[str, Tensor]:
        images, labels, indices = batch
        share = len(labels)
        start = ((engine.state.iteration - 1) * accelerator.num_processes + accelerator.process_index) * share
        keep = min(max(num_samples - start, 0), share)
        network.eval()
        with torch.inference_mode(), torch.autocast(accelerator.device.type, enabled=False):
            logits = network(images)[:keep].float()
        output = {"logits": logits, "labels": labels[:keep], "indices": indices[:keep]}
        if teacher_predictions is not None:
            output["teacher_predictions"] = teacher_predictions[indices[:keep]]
        return output

    evaluator = Engine(step)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    evaluator.add_event_handler(Events.COMPLETED, _leave_loader)
    return evaluator


def collect_rows(evaluator: Engine, row: Callable[[dict[str, Tensor]], Tensor], into: Tensor) -> None:
    """Write what ``row`` makes of an output, shape (n, …), into the rows of ``into`` by sample index."""

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _write(engine: Engine) -> None:
        output = cast(dict[str, Tensor], engine.state.output)
        into[output["indices"]] = row(output).to(into.dtype)


def _leave_loader(engine: Engine) -> None:
    """Tell Accelerate that its loader is done: Ignite stops one ``next`` before it would notice."""
    loader: DataLoader[Any] | None = engine.state.dataloader  # type: ignore[assignment]
    if loader is not None and hasattr(loader, "end"):
        loader.end()
