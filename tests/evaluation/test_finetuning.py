from pathlib import Path
from typing import Any

import pytest
import torch

from lineage.data.batches import Augmentation
from lineage.data.images import DataSet, MemoryImages, memory_dataset
from lineage.evaluation.data import SplitData
from lineage.evaluation.finetuning import Finetuning, FreshlyHeaded, make_finetuning
from lineage.models.networks import build_network
from lineage.training.checkpoints import Checkpoint
from lineage.training.config import TrainConfig
from lineage.training.devices import make_accelerator
from lineage.training.generation import TrainResult
from lineage.training.handlers import constant

SHAPE = (3, 16, 16)


def network(name: str = "resnet8", shape: tuple[int, int, int] = SHAPE, **options: Any) -> Any:
    torch.manual_seed(1)
    return build_network(name, 10, shape, options).eval()


def dataset() -> DataSet:
    """Return a data set of three classes that a network can tell apart."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randint(0, 200, (3, 16, 16, 3), generator=generator)

    def part(size: int) -> MemoryImages:
        labels = torch.arange(size) % 3
        noise = torch.randint(0, 55, (size, 16, 16, 3), generator=generator)
        return MemoryImages((patterns[labels] + noise).to(torch.uint8), labels)

    return memory_dataset("patterns", part(100), part(30), "abc")


def finetuned(folder: Path, epochs: int = 3, train: int = 80) -> TrainResult:
    config = TrainConfig(epochs=epochs, lr=0.05, schedule=constant(), seed=5, top_k=3)
    settings = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}
    how = Finetuning(
        config, "sgd", settings | {"decay_norm_and_bias": True}, 16, Augmentation(flip=True), data_seed=0
    )
    split_data = SplitData(dataset(), torch.arange(train), torch.arange(train, 100))
    training = make_finetuning(make_accelerator(), network(width=4), split_data, how, Checkpoint(folder))
    return training.run()


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet8", SHAPE), ("wrn-16-2", SHAPE), ("torchvision:squeezenet1_1", (3, 64, 64))]
)
def test_former_classifier_does_not_train(name: str, shape: tuple[int, int, int]) -> None:
    former = network(name, shape)
    headed = FreshlyHeaded(former, 3, shape, seed=0)
    assert not any(parameter.requires_grad for parameter in former.classifier.parameters())
    headed.train()(torch.randn(4, *shape)).sum().backward()
    moving = [parameter for parameter in headed.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in moving)
    assert {id(p) for p in headed.classifier.parameters()} <= {id(p) for p in moving}


def test_fresh_classifier_depends_on_its_seed_alone() -> None:
    torch.manual_seed(3)
    first = FreshlyHeaded(network(width=4), 3, SHAPE, seed=0).classifier.weight
    torch.manual_seed(4)
    again, other = (FreshlyHeaded(network(width=4), 3, SHAPE, seed=seed).classifier.weight for seed in (0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_whole_network_learns_and_does_so_again(tmp_path: Path) -> None:
    first, again = (finetuned(tmp_path / folder) for folder in ("a", "b"))
    assert first.test.metrics["accuracy"] > 0.9
    assert first.test.metrics == again.test.metrics
    after = first.network.state_dict()
    before = network(width=4).named_parameters()
    moved = {name: not torch.equal(after[f"network.{name}"], value) for name, value in before}
    assert {name for name, has in moved.items() if not has} == {"classifier.weight", "classifier.bias"}


def test_no_validation_part_is_needed(tmp_path: Path) -> None:
    trained = finetuned(tmp_path, epochs=1, train=100)
    assert not any(name.startswith("validation") for name in trained.history[-1])
