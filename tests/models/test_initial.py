import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models

import lineage
from lineage.display.progress import SilentReporter
from lineage.errors import IntegrityError, NotFoundError, RecipeError, UsageError
from lineage.models.initial import InitialWeights
from lineage.models.networks import build_network
from lineage.recipe import load_recipe

DIGITS = (1, 8, 8)
WIDTH = {"width": 4}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a ResNet-8 for 10 classes of digits."""
    torch.manual_seed(0)
    save_file(build_network("resnet8", 10, DIGITS, WIDTH).state_dict(), tmp_path / "resnet8.safetensors")
    return tmp_path / "resnet8.safetensors"


def start(file: Path, prefix: str = "", name: str = "resnet8") -> InitialWeights:
    return InitialWeights(name, str(file), prefix)


def test_network_starts_from_the_file(file: Path) -> None:
    network, note = start(file).build(10, DIGITS, WIDTH)
    assert note == ""
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in load_file(file).items())


def test_last_layer_is_new_where_classes_differ(file: Path) -> None:
    torch.manual_seed(1)
    fresh = build_network("resnet8", 4, DIGITS, WIDTH)
    torch.manual_seed(1)
    network, note = start(file).build(4, DIGITS, WIDTH)
    assert note == f"the last layer is new: the weights '{file}' are for 10 classes, the data have 4"
    for key, value in load_file(file).items():
        expected = fresh.state_dict()[key] if key.startswith("classifier") else value
        assert torch.equal(network.state_dict()[key], expected)


def test_weights_of_another_width_are_refused_although_classes_differ(file: Path) -> None:
    with pytest.raises(UsageError, match=r"tensors have another shape \(classifier.bias, classifier.w"):
        start(file).build(4, DIGITS, {"width": 8})


def test_prefix_is_named_as_the_recipes_key(file: Path) -> None:
    state = {f"net.{key}": value for key, value in load_file(file).items()}
    save_file(state, file)
    with pytest.raises(UsageError, match=r"'net\.': leave it out with network.strip_prefix=net\."):
        start(file).build(10, DIGITS, WIDTH)
    with pytest.raises(UsageError, match=r"correct network.strip_prefix\."):
        start(file, "other.").build(10, DIGITS, WIDTH)
    start(file, "net.").build(10, DIGITS, WIDTH)


def test_pickled_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"but '.*missing.pt' is neither"):
        start(tmp_path / "missing.pt").build(10, DIGITS, WIDTH)
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(IntegrityError, match=r"is pickled, .*; save it with safetensors.torch.save_file\.$"):
        start(tmp_path / "weights.pt").build(10, DIGITS, WIDTH)


def test_digest_is_that_of_the_content_wherever_it_lies(file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(file, tmp_path / "copy.safetensors"))
    assert start(copy).digest(1, WIDTH) == start(file).digest(1, WIDTH)
    state = load_file(file)
    state["classifier.bias"][0] += 1
    save_file(state, copy)
    assert start(copy).digest(1, WIDTH) != start(file).digest(1, WIDTH)


def test_named_weights_are_torchvisions_and_equal_to_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    own = models.squeezenet1_1()
    entry = models.get_model_weights("squeezenet1_1").DEFAULT
    torch.save(own.state_dict(), cache / Path(entry.url).name)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    name, shape = "torchvision:squeezenet1_1", (3, 64, 64)
    named, of_file = InitialWeights(name, "DEFAULT"), start(tmp_path / "own.safetensors", name=name)
    assert named.digest(3, {}) == of_file.digest(3, {})
    network, note = named.build(5, shape, {})
    assert note == "the last layer is new: the weights 'DEFAULT' are for 1000 classes, the data have 5"
    assert torch.equal(network.backbone[0].weight, own.features[0].weight)
    assert named.options({"dropout": 0.1}) == {"dropout": 0.1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.strip_prefix=net."], "strip_prefix must come with a file as the network's weights"),
        (
            ["network.weights=DEFAULT", "network.options.weights=DEFAULT"],
            "Weights of a network must be named",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits", overrides)


class Notices(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)


def test_every_generation_starts_from_the_weights_and_has_them_in_its_key(
    file: Path, home: Path, tiny_settings: tuple[str, ...]
) -> None:
    settings = [*tiny_settings, "training.epochs=0", f"network.weights={file}"]
    (first,) = lineage.grow("digits", generations=1, overrides=settings)
    for version in first.versions:
        own = lineage.load(version.uri).network.state_dict()
        assert all(torch.equal(own[key], value) for key, value in load_file(file).items())
    file.rename(home / "moved.safetensors")
    settings[-1] = "network.weights=moved.safetensors"
    (again,) = lineage.grow("digits", generations=1, overrides=settings)
    assert again.num_trained == 0
    torch.manual_seed(2)
    save_file(build_network("resnet8", 7, DIGITS, WIDTH).state_dict(), "moved.safetensors")
    reporter: Any = Notices()
    (other,) = lineage.grow("digits", generations=0, overrides=settings, reporter=reporter)
    assert other.num_trained == 1
    assert (
        "generation 0: the last layer is new: the weights 'moved.safetensors' are for 7" in reporter.lines[0]
    )


def test_weights_that_are_not_there_are_told_before_anything_is_created(home: Path) -> None:
    with pytest.raises(NotFoundError, match=r"'missing.safetensors' is neither"):
        lineage.grow("digits", overrides=["network.weights=missing.safetensors"])
    with pytest.raises(RecipeError, match=r"network.weights of 'resnet8' must be a file"):
        lineage.grow("digits", overrides=["network.weights=DEFAULT"])
    with pytest.raises(NotFoundError):
        lineage.tree("digits")
