from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from lineage.models.ensemble import EnsembleNetwork
from lineage.models.networks import NETWORKS, build_network
from lineage.models.stages import StagedNetwork, require_head, stage_names
from lineage.training.devices import make_accelerator
from lineage.training.teachers import LiveTeacher, fold

SHAPE = (3, 16, 16)
TORCHVISION = ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0"]


def lived_in(network: nn.Module) -> nn.Module:
    """``network`` with running statistics that differ from their first values."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.5)):
                assert tensor is not None
                tensor.copy_(torch.rand(len(tensor), generator=generator) + low)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def images(shape: Sequence[int] = SHAPE) -> Tensor:
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "name", [*(n for n in NETWORKS if n not in ("resnet110", "densenet-bc-190-40")), *TORCHVISION]
)
def test_folded_network_gives_the_same_logits(name: str) -> None:
    shape = (3, 64, 64) if name in TORCHVISION else SHAPE
    network = lived_in(build_network(name, 7, shape)).eval()
    folded = fold(network, shape)
    with torch.inference_mode():
        expected, found = network(images(shape)), folded(images(shape))
    tolerance = 1e-5 * max(1.0, float(expected.abs().amax()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert num_norms(folded) < num_norms(network)


def test_resnet_keeps_no_norm() -> None:
    network = build_network("resnet20", 7, SHAPE)
    assert num_norms(fold(network, SHAPE)) == 0
    assert num_norms(network) == 19


@pytest.mark.parametrize("name", ["resnet8", "wrn-16-2", "densenet-bc-100-12", "torchvision:resnet18"])
def test_folded_teacher_gives_the_maps_of_its_stages(name: str) -> None:
    shape = (3, 64, 64) if name in TORCHVISION else SHAPE
    network = lived_in(build_network(name, 7, shape)).eval()
    stages = stage_names(network, shape)
    teacher = LiveTeacher(make_accelerator(), network, shape, stages)

    logits, found = teacher.teach(images(shape))

    with torch.no_grad():
        expected, maps = StagedNetwork(network, stages)(images(shape))
    for ours, theirs in zip([logits, *found], [expected, *maps], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().amax()))
        assert not ours.requires_grad
    assert num_norms(teacher.network) < num_norms(network)


@pytest.mark.parametrize("name", ["resnet8", "densenet-bc-100-12", "torchvision:resnet18"])
def test_teacher_explains_the_class_that_it_finds_likeliest(name: str) -> None:
    """By its head as by gradients of its logits, though its weights are frozen and modules work in place."""
    shape = (3, 64, 64) if name in TORCHVISION else SHAPE
    network = lived_in(build_network(name, 7, shape)).eval()
    (stage,) = stage_names(network, shape)[-1:]
    head = require_head(network, stage, shape, "the teacher")

    found = []
    for layer in (head, None):
        logits, (explanation,) = LiveTeacher(make_accelerator(), network, shape, [stage], {0: layer}).teach(
            images(shape)
        )
        assert not logits.requires_grad
        assert not explanation.requires_grad
        found.append(explanation / explanation.amax((2, 3), keepdim=True))

    with torch.no_grad():
        logits, (maps,) = StagedNetwork(network, [stage])(images(shape))
    expected = torch.einsum("bdhw,bd->bhw", maps, head.weight[logits.argmax(1)]).relu().unsqueeze(1)
    assert expected.amax((2, 3)).min() > 0
    for explanation in found:
        torch.testing.assert_close(
            explanation, expected / expected.amax((2, 3), keepdim=True), rtol=1e-3, atol=1e-4
        )


def test_members_of_an_ensemble_are_folded() -> None:
    network = EnsembleNetwork([lived_in(build_network("resnet8", 7, SHAPE)) for _ in range(2)], [1, 3]).eval()
    folded = fold(network, SHAPE)
    assert num_norms(folded) == 0
    with torch.inference_mode():
        torch.testing.assert_close(folded(images()), network(images()), rtol=1e-4, atol=1e-5)


class Moody(nn.Module):
    """What tracing cannot follow: a path that depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 7, 3)
        self.norm = nn.BatchNorm2d(7)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.convolution(x))
        return F.relu(maps).mean((2, 3)) if x.mean() > 0 else maps.mean((2, 3))


class Picky(nn.Module):
    """What tracing follows wrongly: a path that depends on the type of what is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 7)

    def forward(self, x: object) -> Tensor:
        doubled = x * 2 if isinstance(x, Tensor) else x
        logits: Tensor = self.linear(doubled.mean((2, 3)))  # type: ignore[attr-defined]
        return logits


@pytest.mark.parametrize("kind", [Moody, Picky])
def test_network_that_cannot_be_traced_stays_as_it_is(kind: type[nn.Module]) -> None:
    network = kind().eval()
    folded = fold(network, SHAPE)
    assert type(folded) is kind
    assert folded is not network


def test_teacher_is_a_frozen_copy() -> None:
    network = lived_in(build_network("resnet8", 7, SHAPE)).train()
    teacher = LiveTeacher(make_accelerator(), network, SHAPE)
    logits = teacher.logits(images())
    assert logits.dtype == torch.float32
    assert not logits.is_inference()
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(logits, network.eval()(images()), rtol=1e-4, atol=1e-5)


def test_teacher_in_double_precision_answers_in_it() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7)).double()
    teacher = LiveTeacher(make_accelerator(), network, SHAPE)
    assert teacher.logits(images().double()).dtype == torch.float64
