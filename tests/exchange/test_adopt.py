import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import lineage
from lineage.data.datasets import MemoryImages, load_dataset
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.exchange.adopt import Candidate, Normalisation, adopt
from lineage.models.networks import build_network
from lineage.models.pretrained import read_state

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*", "ignore::UserWarning:mlflow.*"
)

RESNET = "torchvision:resnet18"


@pytest.fixture
def name() -> str:
    return f"adopted-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of a ResNet-8 for digits, as if trained elsewhere."""
    torch.manual_seed(0)
    file = tmp_path / "digits.safetensors"
    save_file(build_network("resnet8", 10, (1, 8, 8), {"width": 4}).state_dict(), file)
    return file


@pytest.fixture
def candidate(weights: Path) -> Candidate:
    return Candidate(network="resnet8", weights=str(weights))


@pytest.fixture
def theirs() -> nn.Module:
    """A network for digits whose code is not part of lineage."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


def log_theirs(network: nn.Module, serialization_format: str = "pt2", **arguments: Any) -> str:
    if mlflow.active_run() is None:
        mlflow.set_experiment("theirs")
    example = np.zeros((2, 1, 8, 8), np.float32)
    info = mlflow.pytorch.log_model(
        network,
        name="theirs",
        input_example=example,
        pip_requirements=["torch"],
        serialization_format=serialization_format,
        **arguments,
    )
    return str(info.model_uri)


WIDTH = ["network.width=4"]


def test_adopted_network_is_a_version_of_its_own_kind(registry: Any, name: str, candidate: Candidate) -> None:
    adoption = adopt(name, candidate, data="digits", overrides=WIDTH)
    (version,) = lineage.tree(name)
    assert adoption.is_new
    assert adoption.version == version
    assert (version.kind, version.generation, version.teacher) == ("adopted", 0, None)
    assert version.metrics == {}
    assert version.aliases == ()
    run = MlflowClient().get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["weights"] == candidate.weights


def test_adopted_network_gives_its_logits(
    registry: Any, name: str, candidate: Candidate, weights: Path
) -> None:
    uri = adopt(name, candidate, data="digits", overrides=WIDTH).version.uri
    expected = build_network("resnet8", 10, (1, 8, 8), {"width": 4})
    expected.load_state_dict(read_state(weights))
    model = lineage.load(uri)
    pixels = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        logits = expected.eval()((pixels - model.mean[0]) / model.std[0])
    assert torch.allclose(model.logits(pixels), logits, atol=1e-6)
    assert model.class_names == tuple("0123456789")
    served = mlflow.pyfunc.load_model(uri).predict(pixels.numpy())
    assert np.array_equal(served, model.logits(pixels).numpy())


def test_adopting_again_registers_nothing(home: Path, name: str, candidate: Candidate) -> None:
    first = adopt(name, candidate, data="digits", overrides=WIDTH)
    again = adopt(name, candidate, data="digits", overrides=WIDTH)
    assert not again.is_new
    assert again.version == first.version
    other = adopt(
        name, candidate, data="digits", overrides=WIDTH, normalisation=Normalisation((0.5,), (0.5,))
    )
    assert other.is_new
    assert lineage.load(other.version.uri).mean == (0.5,)


def test_adopted_network_is_measured_where_asked(home: Path, name: str, candidate: Candidate) -> None:
    version = adopt(name, candidate, data="digits", overrides=WIDTH, measured=True).version
    assert 0 < version.metrics["test_accuracy"] < 0.5
    assert "test_cross_entropy" in version.metrics
    assert lineage.predictions(version.uri).accuracy == version.metrics["test_accuracy"]


def test_adopted_network_teaches(
    home: Path, name: str, candidate: Candidate, tiny_settings: tuple[str, ...]
) -> None:
    teacher = adopt(name, candidate, data="digits", overrides=WIDTH).version
    settings = [*tiny_settings, "training.epochs=1"]
    (student,) = lineage.grow("digits", teacher=teacher.uri, overrides=settings)[0].versions
    assert student.teacher == teacher.id
    assert student.generation == 1
    family = lineage.tree(name)
    assert family.roots == (family.versions[0],)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["weights", "model"])
def test_two_processes_adopt_one_version_and_measure_every_sample(
    source: str,
    home: Path,
    name: str,
    candidate: Candidate,
    theirs: nn.Module,
    run_on_two: Callable[..., Any],
) -> None:
    if source == "model":
        given, settings = Candidate(model=log_theirs(theirs)), []
        what = ["--model", str(given.model)]
    else:
        given, settings = candidate, WIDTH
        what = ["--network", "resnet8", "--weights", str(given.weights), "--set", *WIDTH]
    done = run_on_two("-m", "lineage", "adopt", name, *what, "--from-data", "digits", "--measure", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["version"], found["is_new"]) == (1, True)
    experiment = MlflowClient().get_experiment_by_name(name)
    assert experiment is not None
    assert len(MlflowClient().search_runs([experiment.experiment_id])) == 1
    alone = adopt(f"{name}-alone", given, data="digits", overrides=settings, measured=True).version
    (version,) = lineage.tree(name)
    assert version.key == alone.key
    assert version.metrics["test_accuracy"] == alone.metrics["test_accuracy"]
    ours, theirs_alone = lineage.predictions(version.uri), lineage.predictions(alone.uri)
    assert (ours.classes == theirs_alone.classes).all()
    assert ours.probabilities == pytest.approx(theirs_alone.probabilities, abs=1e-4)


def test_adopted_network_of_another_normalisation_teaches_what_it_knows(
    home: Path, name: str, candidate: Candidate, tiny_settings: tuple[str, ...]
) -> None:
    own = Normalisation((0.8,), (0.1,))
    teacher = adopt(name, candidate, data="digits", overrides=WIDTH, normalisation=own).version
    settings = [*tiny_settings, "training.epochs=0"]
    (student,) = lineage.grow("digits", teacher=teacher.uri, overrides=settings)[0].versions
    test = load_dataset("digits").test
    assert isinstance(test, MemoryImages)
    pixels = test.pixels.permute(0, 3, 1, 2) / 255
    model = lineage.load(teacher.uri)
    taught = model.logits(pixels).argmax(1)
    agreement = (lineage.load(student.uri).logits(pixels).argmax(1) == taught).double().mean().item()
    assert student.metrics["test_agreement"] == pytest.approx(agreement, abs=1.5 / len(test))
    mean, std = load_dataset("digits").spec.mean[0], load_dataset("digits").spec.std[0]
    unconverted = model.network((pixels - mean) / std).argmax(1)
    assert (unconverted == taught).double().mean() < 0.9


def test_torchvision_weights_bring_their_description(
    home: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.resnet18()
    file = tmp_path / "hub" / "checkpoints" / Path(models.ResNet18_Weights.DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save(model.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    version = adopt(name, Candidate(network=RESNET)).version
    monkeypatch.setenv("TORCH_HOME", "/nowhere")
    loaded = lineage.load(version.uri)
    assert loaded.class_names[:2] == ("tench", "goldfish")
    assert loaded.spec.input_shape == (3, 224, 224)
    assert torch.equal(loaded.network.classifier.weight, model.fc.weight)  # type: ignore[union-attr]
    save_file(model.state_dict(), tmp_path / "resnet18.safetensors")
    same = adopt(name, Candidate(network=RESNET, weights=str(tmp_path / "resnet18.safetensors")))
    assert not same.is_new
    assert same.version == version


def test_torchvision_weights_for_other_classes_are_refused(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="have 1000 classes, but 'digits' has 10"):
        adopt(name, Candidate(network=RESNET, weights="DEFAULT"), data="digits")


def test_model_of_mlflow_is_adopted_without_its_code(registry: Any, name: str, theirs: nn.Module) -> None:
    uri = log_theirs(theirs)
    version = adopt(name, Candidate(model=uri), data="digits", measured=True).version
    found = lineage.load(version.uri)
    pixels = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = theirs((pixels - found.mean[0]) / found.std[0])
    assert torch.allclose(found.logits(pixels), expected, atol=1e-5)
    assert found.network.features(pixels).shape == (3, 144)  # type: ignore[operator]
    assert "test_accuracy" in version.metrics
    assert MlflowClient().get_run(version.run_id).data.params["model"] == uri
    assert not adopt(name, Candidate(model=uri), data="digits").is_new
    folder = registry.weights_file(version).parent
    assert not any(file.read_bytes().startswith((b"\x80", b"PK")) for file in folder.iterdir())


def test_program_is_finetuned_on_other_images(home: Path, name: str, theirs: nn.Module) -> None:
    uri = adopt(name, Candidate(model=log_theirs(theirs)), data="digits").version.uri
    settings = ["training.epochs=2", "training.lr=0.05", "data.train_samples=400"]
    first, second = (
        lineage.transfer(uri, "digits", probe="finetune", overrides=settings)[0].metrics for _ in range(2)
    )
    assert first["transfer_accuracy"] == second["transfer_accuracy"] > 0.3


def test_pickled_model_is_refused_unless_trusted(home: Path, name: str, theirs: nn.Module) -> None:
    uri = log_theirs(theirs, "pickle")
    with pytest.raises(IntegrityError, match=r"is pickled, .*--trust-pickle"):
        adopt(name, Candidate(model=uri), data="digits")
    version = adopt(name, Candidate(model=uri, trust_pickle=True), data="digits").version
    found = lineage.load(version.uri)
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(found.network(images), theirs(images), atol=1e-6)


def test_model_that_cannot_be_adopted_is_told(home: Path, name: str, candidate: Candidate) -> None:
    ours = adopt(name, candidate, data="digits", overrides=WIDTH).version
    with pytest.raises(UsageError, match="is lineage's own already"):
        adopt(name, Candidate(model=ours.uri), data="digits")
    with pytest.raises(NotFoundError, match="missing"):
        adopt(name, Candidate(model="models:/missing/1"), data="digits")


@pytest.mark.parametrize(
    ("candidate", "data", "overrides", "message"),
    [
        (Candidate(), "digits", [], "Either --network or --model"),
        (Candidate(network="resnet8", model="models:/a/1"), "digits", [], "Either --network or --model"),
        (Candidate(network="resnet8", weights="w"), None, [], "--from-data must name"),
        (Candidate(model="models:/a/1"), None, [], "--from-data must name"),
        (Candidate(model="models:/a/1", weights="w"), "digits", [], "--weights must come with --network"),
        (Candidate(network="resnet8"), "digits", [], "--weights must be given for network 'resnet8'"),
        (Candidate(network="resnet9", weights="w"), "digits", [], "network.name"),
        (
            Candidate(network="resnet8", weights="w"),
            "digits",
            ["training.lr=1"],
            r"uses \(data.KEY, network.KEY\)",
        ),
        (Candidate(network="resnet8", weights="w"), "digits", ["data.nothing=1"], "data.nothing"),
        (
            Candidate(network="resnet8", weights="w"),
            "digits",
            ["network.width=4", "network.options.width=8"],
            "The width of a network must be given once, but width is 4 and options.width is 8; remove one",
        ),
        (
            Candidate(network="resnet8", weights="w"),
            "digits",
            ["data.seed=1"],
            "but got 'data.seed=1'; leave",
        ),
        (Candidate(network="resnet8", weights="w"), "digits", ["data.workers=1"], "but got 'data.workers=1'"),
        (Candidate(network="resnet8", weights="w"), "digits", ["data.name=cifar10"], "name .* --from-data"),
        (Candidate(network="resnet8", weights="w"), "digits", ["network.name=resnet20"], "with --network"),
        (
            Candidate(network="resnet8", weights="w"),
            "digits",
            ["network.options.weights=DEFAULT"],
            "Weights must be named with --weights, but got --set network.options.weights=DEFAULT",
        ),
        (Candidate(model="models:/a/1"), "digits", ["network.width=4"], "but got 'network.width=4'; leave"),
        (Candidate(network=RESNET), None, ["data.root=here"], "or name the data set with --from-data"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    home: Path, name: str, candidate: Candidate, data: str | None, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        adopt(name, candidate, data=data, overrides=overrides)
    with pytest.raises(NotFoundError):
        lineage.tree(name)


@pytest.mark.parametrize(("mean", "std"), [((0.5, 0.5), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (0.5, 0.5))])
def test_normalisation_that_cannot_be_is_refused(
    home: Path, name: str, candidate: Candidate, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(UsageError, match="must give 1 numbers each"):
        adopt(name, candidate, data="digits", overrides=WIDTH, normalisation=Normalisation(mean, std))


def test_measuring_needs_images(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--measure needs images"):
        adopt(name, Candidate(network=RESNET), measured=True)
