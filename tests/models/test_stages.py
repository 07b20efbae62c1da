import re

import pytest
import timm
import torch
from torch import nn

from lineage.errors import UsageError
from lineage.models.ensemble import EnsembleNetwork
from lineage.models.networks import NETWORKS, build_network
from lineage.models.stages import StagedNetwork, map_shapes, pick_stages, require_head, stage_names

SMALL = (3, 16, 16)
LARGE = (3, 64, 64)
LARGEST = {"resnet110", "densenet-bc-190-40", "wrn-28-10"}


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - LARGEST))
def test_shipped_network_has_three_stages_that_halve_the_resolution(name: str) -> None:
    network = build_network(name, 7, SMALL)
    names = stage_names(network, SMALL)
    shapes = map_shapes(network, names, SMALL)
    assert [shape[1:] for shape in shapes] == [(16, 16), (8, 8), (4, 4)]
    assert shapes[-1][0] == network.get_submodule("classifier").in_features
    assert network.training


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("vgg11", [f"features.{index}" for index in (1, 4, 9, 14, 19)] + ["features"]),
        ("mobilenet_v3_small", ["features.0", "features.1", "features.3", "features.8", "features"]),
        ("densenet121", ["features.relu0", *(f"features.denseblock{i}" for i in (1, 2, 3)), "features"]),
        ("vit_b_16", []),
    ],
)
def test_stages_of_torchvision_are_the_last_modules_of_each_resolution(
    name: str, expected: list[str]
) -> None:
    with torch.random.fork_rng():
        network = build_network(f"torchvision:{name}", 7, LARGE)
    assert stage_names(network, LARGE) == [f"backbone.{stage}" for stage in expected]


def test_stages_of_timm_are_those_that_it_names() -> None:
    network = timm.create_model("resnet18", num_classes=7)
    assert stage_names(network, LARGE) == [stage["module"] for stage in network.feature_info]


class Own(nn.Module):
    """A network that names its stages, below another one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, stride=2), nn.Flatten())

    def stage_names(self) -> list[str]:
        return ["body.1", "body.0"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images).mean(1, keepdim=True)


def test_network_names_its_own_stages_also_within_another_one() -> None:
    assert stage_names(Own(), SMALL) == ["body.1", "body.0"]
    assert stage_names(nn.Sequential(nn.Identity(), Own()), SMALL) == ["1.body.1", "1.body.0"]


def test_staged_network_returns_logits_and_the_maps_in_the_order_of_the_names() -> None:
    network = Own()
    images = torch.randn(2, *SMALL)
    logits, maps = StagedNetwork(network, ["body.1", "body.0", "body.1"])(images)
    assert torch.equal(logits, network(images))
    assert torch.equal(maps[1], network.body[0](images))
    assert maps[0] is maps[2]
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("number", [4, -4])
def test_stage_that_a_network_does_not_have_is_refused(number: int) -> None:
    network = build_network("resnet8", 7, SMALL)
    assert pick_stages(network, SMALL, [1, -1, 3], "it") == ["trunk.3", "trunk", "trunk"]
    with pytest.raises(UsageError, match=rf"stages of it, which has 3 stages, but has stage = {number};"):
        pick_stages(network, SMALL, [1, number], "it")


class Shared(nn.Module):
    """A network whose activation is called after each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)
        self.activation = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.activation(self.second(self.activation(self.first(images)))).mean((2, 3))


def test_module_that_is_called_again_ends_no_stage() -> None:
    assert stage_names(Shared(), SMALL) == ["first", "second"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["body.7"], "stage_names() of it must name its submodules, but names 'body.7'; correct it."),
        (["spare"], "Stage 'spare' of a network must be called in its forward pass, but is not; correct its"),
    ],
)
def test_stage_that_is_not_there_or_not_called_is_refused(
    names: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Own()
    network.spare = nn.Identity()
    monkeypatch.setattr(network, "stage_names", lambda: names)
    with pytest.raises(UsageError, match=re.escape(message)):
        map_shapes(network, pick_stages(network, SMALL, [1], "it"), SMALL)


def test_ensemble_has_no_stages() -> None:
    ensemble = EnsembleNetwork([build_network("resnet8", 7, SMALL)], [1])
    with pytest.raises(UsageError, match=r"which has 0 stages, .*; choose a loss on logits alone\."):
        pick_stages(ensemble, SMALL, [-1], "the teacher")


def test_stage_without_maps_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Stage 'body.2' .* maps .*, but returns \(1, \d+\)"):
        map_shapes(Own(), ["body.2"], SMALL)


@pytest.mark.parametrize("name", ["resnet8", "wrn-16-2", "densenet-bc-100-12", "torchvision:resnet18"])
def test_head_on_the_means_of_the_last_maps_is_found(name: str) -> None:
    shape = LARGE if ":" in name else SMALL
    network = build_network(name, 7, shape)
    stages = stage_names(network, shape)
    assert require_head(network, stages[-1], shape, "it") is network.get_submodule("classifier")
    with pytest.raises(
        UsageError, match=f"in it they are not for the stage '{stages[0]}'; leave stage at -1"
    ):
        require_head(network, stages[0], shape, "it")


def test_head_behind_other_layers_is_refused() -> None:
    network = build_network("torchvision:mobilenet_v3_small", 7, LARGE)
    with pytest.raises(UsageError, match="needs networks whose logits are a linear layer of the means"):
        require_head(network, stage_names(network, LARGE)[-1], LARGE, "it")
