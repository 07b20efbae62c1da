"""The trainer against a loop that anybody would write by hand, which knows nothing of this package."""

import copy
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from lineage.data.images import MemoryImages, memory_dataset
from lineage.evaluation.data import SplitData
from lineage.growing.plan import GenerationPlan, read_split_data
from lineage.recipe import load_recipe

RECIPE = Path(__file__).parents[1] / "benchmarks" / "peer.toml"
DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar100"
EPOCHS, STEPS, BATCH, WARM_UP = 5, 10, 32, 1
LR, DECAY = (
    0.02,
    5e-3,
)  # roundings of float32 grow to 1e-5 in 50 steps; at 0.1 to 3e-4, as large as a small mistake
SETTINGS = [
    f"training.lr={LR}",
    f"training.weight_decay={DECAY}",
    f"training.epochs={EPOCHS}",
    f"training.batch_size={BATCH}",
    f"training.warmup_epochs={WARM_UP}",
    f"data.train_samples={STEPS * BATCH}",
]


@pytest.fixture
def split_data(tmp_path: Path) -> SplitData:
    """320 images of CIFAR-100 to train on if they are there, or else as many noisy patterns."""
    if DATA.is_dir():
        for part, count in (("train", 1000), ("test", 10)):
            file = f"{part}-00000-of-00001.parquet"
            pq.write_table(pq.read_table(DATA / file).slice(0, count), tmp_path / file)
        return read_split_data(load_recipe(str(RECIPE), [*SETTINGS, f"data.root={tmp_path}"]))
    draw = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 200, (100, 32, 32, 3), generator=draw)
    labels = torch.arange(STEPS * BATCH) % 100
    noise = torch.randint(0, 56, (len(labels), 32, 32, 3), generator=draw)
    images = MemoryImages((patterns[labels] + noise).to(torch.uint8), labels)
    made = memory_dataset("patterns", images, images, [str(label) for label in range(100)], None)
    return SplitData(made, torch.arange(len(labels)), torch.arange(0))


def plain_losses(student: nn.Module, teacher: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Losses of distillation with T 4 and λ 0.1 by SGD, warm-up and cosine."""
    optimizer = torch.optim.SGD(student.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=DECAY)
    student.train()
    teacher.eval()
    losses = []
    for step, (images, labels) in enumerate(batches):
        epoch = step / STEPS
        rate = LR * min(1, epoch / WARM_UP) * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        optimizer.param_groups[0]["lr"] = rate
        logits = student(images)
        with torch.no_grad():
            soft = F.softmax(teacher(images) / 4, dim=1)
        divergence = (soft * (soft.log() - F.log_softmax(logits / 4, dim=1))).sum(1).mean()
        loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * 4**2 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.usefixtures("home")
def test_fifty_losses_of_a_student_are_those_of_a_plain_loop(split_data: SplitData) -> None:
    recipe = load_recipe(str(RECIPE), SETTINGS)
    first = GenerationPlan(load_recipe(str(RECIPE), [*SETTINGS, "training.epochs=2"]), split_data, 0, None)
    teacher = first.make_training(None).run().network
    training = GenerationPlan(recipe, split_data, 1, first.key).make_training(teacher)
    student = copy.deepcopy(training.evaluated).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batches, losses = [], []

    def record(trainer: Engine) -> None:
        @trainer.on(Events.ITERATION_COMPLETED)
        def _record(engine: Engine) -> None:
            images, labels, _ = engine.state.batch  # type: ignore[misc]
            batches.append((images.clone(memory_format=torch.contiguous_format), labels.clone()))
            losses.append(engine.state.output.item())  # type: ignore[union-attr]

    training.run(attach=record)
    assert len(losses) == EPOCHS * STEPS
    assert sum(losses[-STEPS:]) < 0.9 * sum(losses[:STEPS])  # it learns
    assert losses == pytest.approx(plain_losses(student, teacher, batches), abs=1e-4, rel=0)
