"""The message of a loss that is not finite names the batch and the images where it began."""

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from lineage.errors import TrainingError
from lineage.training.devices import make_accelerator
from lineage.training.handlers import LossGuard


def batches(size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    images, labels = torch.zeros(size, 1), torch.zeros(size, dtype=torch.int64)
    return [(images, labels, torch.arange(size).flip(0) + 1000 * number) for number in range(6)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_first_batch_and_its_images_are_named(value: float) -> None:
    def step(engine: Engine, _batch: object) -> Tensor:
        bad = engine.state.epoch == 2 and engine.state.iteration in {9, 11}
        return torch.tensor(value if bad else 1.0)

    trainer = Engine(step)
    LossGuard(make_accelerator()).attach(trainer)
    with pytest.raises(TrainingError) as caught:
        trainer.run(batches(3), max_epochs=2)
    assert str(caught.value) == (
        "The training loss must be finite, but is not in epoch 2, from batch 3 on, which holds the training"
        " images 2000, 2001, 2002; look at these images, or try a lower training.lr, a warm-up"
        " (training.warmup_epochs) or training.clip_norm."
    )


def test_many_images_are_named_in_part() -> None:
    trainer = Engine(lambda _engine, _batch: torch.tensor(float("nan")))
    LossGuard(make_accelerator()).attach(trainer)
    with pytest.raises(TrainingError, match=r"images 0, 1, 2, .*, 62, 63, …; look"):
        trainer.run(batches(500), max_epochs=1)
