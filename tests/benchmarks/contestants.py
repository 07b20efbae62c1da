"""One of those who train a ResNet-20 by another on CIFAR-100: ``contestants.py NAME FOLDER PRECISION``."""

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import compete
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

BATCH = 128
LABEL_WEIGHT, TEMPERATURE = 0.3, 4.0
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
MANY = 100_000

Steps = Callable[[int], None]


def ours(folder: str, precision: str, taught: bool, *settings: str) -> None:
    """Let the succession that ``lineage grow`` runs, with metrics, handlers, checkpoints and MLflow, compete.

    It grows in the main thread, as a user's does; a handler holds it after as many batches as were asked for.

    Args:
        folder: Of the images.
        precision: Of the recipe.
        taught: Whether a student is timed, whose teacher was not trained: that changes nothing in the costs.
        settings: Further ones.
    """
    import lineage
    from lineage.cli.memory import keep_freed_memory
    from lineage.display.progress import SilentReporter
    from lineage.growing.plan import read_split_data
    from lineage.growing.succession import Succession
    from lineage.recipe import load_recipe
    from lineage.registry.family.lookup import find_version

    keep_freed_memory()
    asked: queue.Queue[int] = queue.Queue()
    finished: queue.Queue[None] = queue.Queue()
    left = 0

    def hold(trainer: Engine, _generation: int) -> None:
        @trainer.on(Events.ITERATION_STARTED)
        def _wait(_: Engine) -> None:
            nonlocal left
            while left == 0:
                left = asked.get()

        @trainer.on(Events.ITERATION_COMPLETED)
        def _count(_: Engine) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                finished.put(None)

    def run(steps: int) -> None:
        asked.put(steps)
        finished.get()

    threading.Thread(target=compete, args=(run,), daemon=True).start()
    common = [f"data.root={folder}", f"training.precision={precision}", "succession.generations=1"]
    from_version = None
    if taught:
        lineage.grow("cifar100-resnet20", overrides=[*common, "training.epochs=0"], generations=0)
        from_version = find_version("models:/cifar100-resnet20/1")
    recipe = load_recipe("cifar100-resnet20", [*common, "training.epochs=9", *settings])
    Succession(
        recipe, read_split_data(recipe), SilentReporter(), from_version=from_version, observe=hold
    ).run()


def bare(folder: str, precision: str) -> Steps:
    """A loop by hand with the same tricks: views on tensors, channels_last, a folded teacher, memory kept."""
    from lineage.cli.memory import keep_freed_memory
    from lineage.data.augmentation import Augmentation, Normalisation, crop_and_flip, random_bits
    from lineage.data.datasets import load_dataset
    from lineage.models.networks import build_network
    from lineage.training.teachers import fold

    keep_freed_memory()
    data = load_dataset("cifar100", folder)
    shape, train = data.spec.input_shape, data.train
    student, teacher = (
        build_network("resnet20", 100, shape).to(memory_format=torch.channels_last) for _ in range(2)
    )
    teacher = fold(teacher, shape).to(memory_format=torch.channels_last).requires_grad_(False)
    optimizer = torch.optim.SGD(
        student.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    normalise = Normalisation(data.spec.mean, data.spec.std, 32, 32)
    how = Augmentation(4, "zeros", True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(MANY):
            order = torch.randperm(len(train.labels))
            for rows in order.split(BATCH)[:-1]:
                bits = random_bits(0, torch.tensor(epoch), rows)
                yield normalise(crop_and_flip(train.pixels, rows, bits, how)), train.labels[rows]  # type: ignore[union-attr]

    given = batches()
    student.train()

    def run(steps: int) -> None:
        for _ in range(steps):
            images, labels = next(given)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                with torch.inference_mode():
                    target = teacher(images)
                logits = student(images)
            target, logits = target.float().clone(), logits.float()
            divergence = F.kl_div(
                (logits / TEMPERATURE).log_softmax(1),
                (target / TEMPERATURE).log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
            loss = LABEL_WEIGHT * F.cross_entropy(logits, labels)
            loss = loss + (1 - LABEL_WEIGHT) * TEMPERATURE**2 * divergence
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def distill(folder: str, precision: str) -> Steps:
    """torchdistill through its own box, which needs neither lineage's loader nor its network."""
    from boxes import Pictures, make_box
    from torchdistill.models.classification.resnet import resnet20

    from lineage.data.datasets import load_dataset

    data = load_dataset("cifar100", folder)
    pictures = Pictures(data.train, torch.arange(len(data.train)), data.spec, crop_padding=4)  # type: ignore[arg-type]
    teacher, student = (resnet20(num_classes=100) for _ in range(2))
    sgd = {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "nesterov": True}
    box = make_box(teacher, student, "fc", pictures, BATCH, LABEL_WEIGHT, TEMPERATURE, sgd)
    box.pre_epoch_process(epoch=0)

    def batches() -> Iterator[Any]:
        while True:
            yield from box.train_data_loader

    given = batches()

    def run(steps: int) -> None:
        for _ in range(steps):
            images, targets, *more = next(given)
            box.pre_forward_process()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = box.forward_process(images, targets, more[0] if more else None)
            box.post_forward_process(loss=loss)

    return run


def forwards(precision: str, who: str) -> Steps:
    """The forward pass alone, of a folded teacher or of a student that learns."""
    from lineage.cli.memory import keep_freed_memory
    from lineage.models.networks import build_network
    from lineage.training.teachers import fold

    keep_freed_memory()
    network: nn.Module = build_network("resnet20", 100, (3, 32, 32)).to(memory_format=torch.channels_last)
    if who == "teacher":
        network = fold(network, (3, 32, 32)).to(memory_format=torch.channels_last).requires_grad_(False)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network.train(who == "student")

    def run(steps: int) -> None:
        for _ in range(steps):
            with (
                torch.inference_mode(who == "teacher"),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            ):
                network(images)

    return run


KINDS: dict[str, Callable[[str, str], None]] = {
    "live": lambda folder, precision: ours(folder, precision, True),
    "stored": lambda folder, precision: ours(
        folder, precision, True, "student.soft_targets=stored", "student.views=1"
    ),
    "plain": lambda folder, precision: ours(folder, precision, False, "patriarch.objective=strict"),
    "bare": lambda folder, precision: compete(bare(folder, precision)),
    "torchdistill": lambda folder, precision: compete(distill(folder, precision)),
    "teacher": lambda _, precision: compete(forwards(precision, "teacher")),
    "student": lambda _, precision: compete(forwards(precision, "student")),
}

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    name, data_folder, given_precision = sys.argv[1:]
    home = Path.cwd()
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{home / 'mlflow.db'}"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["LINEAGE_HOME"] = str(home / ".lineage")
    torch.manual_seed(0)
    KINDS[name](data_folder, given_precision)
