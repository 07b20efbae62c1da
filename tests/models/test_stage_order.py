import pytest
import torch
from torch import Tensor, nn

from lineage.errors import UsageError
from lineage.models.networks import build_network
from lineage.models.stage_order import StageOrder

SHAPE = (3, 16, 16)


class Attending(nn.Module):
    """Two convolutions, then attention whose projection is never called as a module, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)  # made first, called last
        self.scale = nn.Parameter(torch.ones(()))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1), nn.BatchNorm2d(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def stage_names(self) -> list[str]:
        return ["stem", "body"]

    def features(self, images: Tensor) -> Tensor:
        tokens = self.body(self.stem(images * self.scale)).flatten(2).mT
        attended: Tensor = self.attention(tokens, tokens, tokens)[0]
        return attended.mean(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def factors(network: nn.Module, pixels: int = 16) -> dict[str, float]:
    found = StageOrder(network, (3, pixels, pixels), "it").factors(0.5)
    return {name: found[parameter] for name, parameter in network.named_parameters()}


def test_factors_fall_from_the_head_to_the_first_stage_in_the_order_of_calls() -> None:
    found = factors(Attending())
    assert {found["scale"], found["stem.weight"], found["stem.bias"]} == {0.25}
    assert {value for name, value in found.items() if name.startswith("body")} == {0.5}
    assert {value for name, value in found.items() if name.startswith("attention")} == {1.0}
    assert found["head.weight"] == 1


@pytest.mark.parametrize(
    ("name", "options", "stage_of"),
    [
        ("resnet8", {"width": 4}, {"trunk.0": 0, "trunk.3": 0, "trunk.4": 1, "trunk.5": 2, "classifier": 3}),
        ("wrn-16-2", {}, {"trunk.0": 0, "trunk.2": 0, "trunk.3": 1, "trunk.7": 2, "classifier": 3}),
        ("torchvision:resnet18", {}, {"backbone.conv1": 0, "backbone.layer4": 4, "classifier": 5}),
    ],
)
def test_stages_of_known_networks_hold_their_parameters(
    name: str, options: dict[str, int], stage_of: dict[str, int]
) -> None:
    found = factors(build_network(name, 5, (3, 64, 64), options), 64)
    head = max(stage_of.values())
    for prefix, stage in stage_of.items():
        held = {value for key, value in found.items() if key.startswith(f"{prefix}.")}
        assert held == {0.5 ** (head - stage)}, prefix


def test_frozen_stages_lose_their_gradients_and_name_whole_modules() -> None:
    network = Attending()
    frozen = StageOrder(network, SHAPE, "it").freeze(2)
    assert set(frozen) == {"stem", "body", "body.0", "body.1"}
    trained = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"attention", "head"}


def test_more_frozen_stages_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match=r"training.freeze_stages must be at most 2.* of it, but is 3"):
        StageOrder(Attending(), SHAPE, "it").freeze(3)


def test_network_without_stages_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    with pytest.raises(UsageError, match=r"it must have stages, feature maps of falling size"):
        StageOrder(flat, SHAPE, "it")
