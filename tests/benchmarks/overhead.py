"""What a training step costs beside a bare loop with the same loader, loss and optimizer.

The network has one layer and the batch 8 images, so that the rest is what there is to measure, in seconds of
the processor: ``python tests/benchmarks/overhead.py`` prints them as JSON, of one epoch's steps each.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import nn

from lineage.data.augmentation import Augmentation
from lineage.data.batches import TrainingBatches, training_batches
from lineage.data.images import DataSpec, MemoryImages
from lineage.training.checkpoints import Checkpoint
from lineage.training.config import TrainConfig
from lineage.training.devices import make_accelerator
from lineage.training.generation import GenerationData, GenerationTraining
from lineage.training.handlers import build_schedule
from lineage.training.losses import strict_loss
from lineage.training.measurement import Subset

STEPS, BATCH = 200, 8
SPEC = DataSpec("noise", tuple(map(str, range(10))), None, (0.5,), (0.5,), (1, 8, 8), "d" * 64)
IMAGES = MemoryImages(
    torch.randint(0, 256, (STEPS * BATCH, 8, 8, 1), dtype=torch.uint8), torch.arange(STEPS * BATCH) % 10
)


def batches() -> TrainingBatches:
    """Return the batches of both."""
    rows = torch.arange(len(IMAGES))
    return training_batches(IMAGES, SPEC, rows, BATCH, Augmentation(0, "zeros", False), 0, 1)


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return network and optimizer of both."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def ours(epochs: int) -> list[float]:
    """Return the seconds of a step in each epoch of a generation, all handlers attached."""
    network, optimizer = parts()
    marks: list[float] = []

    def watch(trainer: Engine) -> None:
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda: marks.append(time.process_time()))
        last = Events.ITERATION_COMPLETED(every=STEPS)
        trainer.add_event_handler(last, lambda: marks.append(time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        GenerationTraining(
            accelerator=make_accelerator(),
            network=network,
            optimizer=optimizer,
            loss=lambda logits, labels, _teacher, _share: strict_loss(logits, labels),
            teacher=None,
            data=GenerationData(
                batches(),
                Subset(IMAGES, torch.arange(0), SPEC, BATCH),
                Subset(IMAGES, torch.arange(BATCH), SPEC, BATCH),
            ),
            config=TrainConfig(
                epochs=epochs,
                lr=0.1,
                schedule=build_schedule("cosine", 0, {"epochs": epochs}),
                seed=0,
                top_k=2,
            ),
            checkpoint=Checkpoint(Path(folder) / "state"),
        ).run(watch)
    return [(end - start) / STEPS for start, end in zip(marks[::2], marks[1::2], strict=True)]


def bare(epochs: int) -> list[float]:
    """Return the seconds of a step in each epoch of a loop without anything else."""
    given, (network, optimizer) = batches(), parts()
    seconds = []
    for epoch in range(1, epochs + 1):
        given.select_epoch(epoch)
        started = time.process_time()
        for images, labels, _ in given.loader:
            strict_loss(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds.append((time.process_time() - started) / STEPS)
    return seconds


if __name__ == "__main__":
    torch.set_num_threads(1)
    rounds = int(sys.argv[1])
    print(json.dumps({"ours": ours(rounds + 1)[1:], "bare": bare(rounds + 1)[1:]}))  # noqa: T201
