from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from lineage.errors import IntegrityError, NotFoundError, RecipeError, UsageError
from lineage.models.networks import build_network
from lineage.models.pretrained import describe_weights, fit_state, read_state, strip_prefix

SHAPE = (3, 64, 64)


def test_description_of_torchvision_weights_is_what_torchvision_says() -> None:
    found = describe_weights("torchvision:resnet18", "DEFAULT")
    assert found.name == "torchvision:resnet18/IMAGENET1K_V1"
    assert found.input_shape == (3, 224, 224)
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.std == (0.229, 0.224, 0.225)
    assert len(set(found.class_names)) == 1000
    assert found.class_names[:2] == ("tench", "goldfish")
    assert found == describe_weights("torchvision:resnet18", "IMAGENET1K_V1")
    assert len(found.digest) == 64


@pytest.mark.parametrize("weights", ["IMAGENET1K_V7", "", "default"])
def test_weights_that_torchvision_does_not_list_are_refused(weights: str) -> None:
    with pytest.raises(RecipeError, match="must be one of IMAGENET1K_V1"):
        describe_weights("torchvision:resnet18", weights)


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "squeezenet1_1", "mobilenet_v3_small", "googlenet", "vit_b_32"]
)
def test_torchvision_state_gives_the_logits_of_torchvision(name: str, tmp_path: Path) -> None:
    settings = {"image_size": 64} if name == "vit_b_32" else {}
    settings |= {"init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    theirs = models.get_model(name, num_classes=5, **settings).eval()
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = build_network(f"torchvision:{name}", 5, SHAPE).eval()
    fit_state(ours, read_state(tmp_path / "theirs.safetensors"), name)
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_state_of_our_own_network_fits() -> None:
    first, second = (build_network("resnet8", 3, (3, 8, 8)).eval() for _ in range(2))
    fit_state(second, first.state_dict(), "resnet8")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(first(images), second(images))


def test_state_of_another_network_is_refused() -> None:
    state = models.resnet18(num_classes=5).state_dict()
    with pytest.raises(UsageError, match="must have the 218 names of network 'torchvision:resnet34'"):
        fit_state(build_network("torchvision:resnet34", 5, SHAPE), state, "torchvision:resnet34")
    with pytest.raises(UsageError, match=r"2 tensors have another shape .* is \[5, 512\], not \[6, 512\]"):
        fit_state(build_network("torchvision:resnet18", 6, SHAPE), state, "torchvision:resnet18")


def test_mismatch_is_told_by_three_names_and_a_count() -> None:
    network = build_network("resnet8", 10, (3, 32, 32), {"width": 4})
    state = {f"encoder_{name}": tensor for name, tensor in network.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        fit_state(network, state, "resnet8")
    count = len(state)
    assert str(caught.value) == (
        f"The weights must have the {count} names of network 'resnet8', but miss {count} names"
        f" (classifier.bias, classifier.weight, trunk.0.weight, …) and have {count} other names"
        " (encoder_classifier.bias, encoder_classifier.weight, encoder_trunk.0.weight, …); name the network"
        " that they are of."
    )


def test_pickled_weights_are_read_only_on_trust(tmp_path: Path) -> None:
    network = nn.Linear(2, 3)
    for content in (network.state_dict(), network):
        torch.save(content, tmp_path / "weights.safetensors")
        with pytest.raises(IntegrityError, match=r"is pickled, .*--trust-pickle"):
            read_state(tmp_path / "weights.safetensors")
        state = read_state(tmp_path / "weights.safetensors", trust_pickle=True)
        assert torch.equal(state["weight"], network.weight)


def test_trusted_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "weights.pt")
    with pytest.raises(IntegrityError, match="holds list"):
        read_state(tmp_path / "weights.pt", trust_pickle=True)
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04nothing")
    with pytest.raises(IntegrityError, match=r"must be a file of torch\.save"):
        read_state(tmp_path / "weights.pt", trust_pickle=True)


def test_damaged_or_missing_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the sort")
    with pytest.raises(IntegrityError, match="must hold safetensors, but does not"):
        read_state(tmp_path / "weights.safetensors")
    with pytest.raises(NotFoundError, match="is neither"):
        read_state(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "encoder."])
def test_prefix_of_a_wrapper_is_named_and_stripped(prefix: str) -> None:
    network = build_network("resnet8", 10, (3, 32, 32), {"width": 4})
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    with pytest.raises(UsageError, match=f"every name begins with '{prefix}': .*--strip-prefix {prefix}"):
        fit_state(network, state, "resnet8")
    fit_state(network, strip_prefix(state, prefix), "resnet8")
    with pytest.raises(UsageError, match=r"must begin with 'net\.' to lose it, but"):
        strip_prefix(state, "net.")
