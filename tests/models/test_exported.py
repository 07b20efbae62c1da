import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from lineage.data.datasets import DataSpec
from lineage.errors import IntegrityError, UsageError
from lineage.models.ensemble import EnsembleNetwork, fit_to_data
from lineage.models.exported import ExportedNetwork, export
from lineage.models.networks import EXPORTED, build_network, has_features
from lineage.models.pt2_archive import clean_archive

SHAPE = (3, 8, 8)


def make_network(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    body(torch.randn(16, *SHAPE))
    return nn.Sequential(body, nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3), *last).eval()


def exported_from(archive: bytes) -> ExportedNetwork:
    network = build_network(EXPORTED, 3, SHAPE)
    assert isinstance(network, ExportedNetwork)
    network.read(archive)
    return network


def saved(network: nn.Module, batch: int) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (torch.zeros(batch, *SHAPE),)), buffer)
    return buffer.getvalue()


def records(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def changed(archive: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    held = records(archive)
    change(held)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in held.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return make_network()


@pytest.fixture(scope="module")
def archive(network: nn.Sequential) -> bytes:
    return export(network, SHAPE)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_program_gives_the_logits_and_features_of_its_network(
    network: nn.Sequential, archive: bytes, rows: int
) -> None:
    images = torch.randn(rows, *SHAPE).to(memory_format=torch.channels_last)
    found = exported_from(archive)
    assert torch.allclose(found(images), network(images), atol=1e-6)
    assert torch.allclose(found.features(images), network[:-1](images), atol=1e-6)


def test_program_of_one_batch_size_takes_any(network: nn.Sequential) -> None:
    found = exported_from(saved(network, 4))
    images = torch.randn(7, *SHAPE)
    assert torch.allclose(found(images), network(images), atol=1e-6)


def test_state_of_a_program_is_its_archive_and_survives_a_round_trip(archive: bytes) -> None:
    found = exported_from(archive)
    again = build_network(EXPORTED, 3, SHAPE)
    again.load_state_dict(found.state_dict())
    again.to(memory_format=torch.channels_last).eval()
    images = torch.randn(5, *SHAPE)
    assert torch.equal(again(images), found(images))
    assert list(found.state_dict()) == ["archive"]
    with pytest.raises(RuntimeError, match="one tensor 'archive'"):
        again.load_state_dict({})


class Viewed(nn.Module):
    """Takes the memory of a convolution's output as it lies, which fits one layout alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(256, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.body(images)
        return self.classifier(seen.view(len(seen), -1))


def test_program_keeps_its_layout_within_other_networks() -> None:
    network = Viewed().eval()
    member = exported_from(export(network, SHAPE))
    images = torch.randn(5, *SHAPE).to(memory_format=torch.channels_last)
    ensemble = EnsembleNetwork([member, member], [1, 3]).to(memory_format=torch.channels_last)
    expected = network(images.contiguous())
    assert torch.allclose(ensemble(images).softmax(1), expected.softmax(1), atol=1e-6)
    own = DataSpec("own", ("a", "b", "c"), None, (0.5,) * 3, (0.5,) * 3, SHAPE, "")
    fitted = fit_to_data(member, own, replace(own, mean=(0.0,) * 3, std=(1.0,) * 3), "it")
    fitted.to(memory_format=torch.channels_last)
    assert torch.allclose(fitted(images), network(((images - 0.5) / 0.5).contiguous()), atol=1e-5)


def test_state_of_a_network_around_a_program_survives_a_round_trip(archive: bytes) -> None:
    ensemble = EnsembleNetwork([exported_from(archive)], [1])
    again = EnsembleNetwork([build_network(EXPORTED, 3, SHAPE)], [1])
    again.load_state_dict(ensemble.state_dict())
    images = torch.randn(5, *SHAPE)
    assert torch.equal(again(images), ensemble(images))
    assert list(ensemble.state_dict()) == ["members.0.archive"]


def test_program_survives_a_copy_and_another_process(archive: bytes) -> None:
    found = exported_from(archive)
    images = torch.randn(5, *SHAPE)
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert torch.equal(again(images), found(images))
        assert not again.training


def test_learner_has_weights_that_are_trained_and_leave_the_program_alone(archive: bytes) -> None:
    found = exported_from(archive)
    learner = found.learner().requires_grad_(True).train()
    images = torch.randn(5, *SHAPE)
    before = found.features(images)
    assert torch.equal(learner.features(images), before)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    learner.features(images).square().sum().backward()
    optimizer.step()
    assert not torch.equal(learner.features(images), before)
    assert torch.equal(found.features(images), before)
    again = exported_from(archive).learner()
    again.load_state_dict(learner.state_dict())
    assert torch.equal(again.features(images), learner.features(images))


def test_program_without_a_linear_end_has_no_learner() -> None:
    with pytest.raises(UsageError, match="must end in a linear layer"):
        exported_from(export(make_network(nn.Softmax(1)), SHAPE)).learner()


def test_program_is_frozen(archive: bytes) -> None:
    assert not any(parameter.requires_grad for parameter in exported_from(archive).parameters())


def test_clean_archive_holds_no_pickle_and_is_the_same_again(archive: bytes) -> None:
    clean = clean_archive(archive)
    assert clean_archive(clean) == clean
    assert any(content.startswith(b"PK") for content in records(archive).values())
    assert not any(content.startswith((b"PK", b"\x80")) for content in records(clean).values())


def test_program_without_a_linear_end_has_no_features() -> None:
    found = exported_from(export(make_network(nn.Softmax(1)), SHAPE))
    assert found(torch.randn(2, *SHAPE)).shape == (2, 3)
    assert not has_features(found)
    with pytest.raises(UsageError, match="must end in a linear layer"):
        found.features(torch.randn(2, *SHAPE))


def test_networks_but_for_ensembles_have_features(network: nn.Sequential, archive: bytes) -> None:
    found = exported_from(archive)
    assert has_features(found)
    assert has_features(build_network("resnet8", 3, SHAPE))
    assert not has_features(EnsembleNetwork([found], [1]))


def test_program_exported_for_training_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(UsageError, match="is in training mode; call eval"):
        exported_from(saved(make_network().train(), 4))


@pytest.mark.parametrize(
    ("classes", "shape", "message"), [(4, SHAPE, "4 classes"), (3, (1, 8, 8), r"takes 1 in")]
)
def test_program_that_does_not_fit_the_data_is_refused(
    archive: bytes, classes: int, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ExportedNetwork(classes, shape).read(archive)


def test_network_that_torch_cannot_export_is_refused() -> None:
    class Branches(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(UsageError, match="must be one that torch can export"):
        export(Branches(), SHAPE)


def pickle_a_weight(held: dict[str, bytes]) -> None:
    name = next(name for name in held if name.endswith("weights_config.json"))
    config = json.loads(held[name])
    config["config"]["3.bias"]["use_pickle"] = True
    held[name] = json.dumps(config).encode()


def add_an_object(held: dict[str, bytes]) -> None:
    held["archive/data/constants/opaque_obj_0"] = pickle.dumps(print)


def call_something_else(held: dict[str, bytes]) -> None:
    name = next(name for name in held if name.endswith("models/model.json"))
    held[name] = held[name].replace(b"torch.ops.aten.relu.default", b"torch.hub.load")


def evaluate_something(held: dict[str, bytes]) -> None:
    name = next(name for name in held if name.endswith("models/model.json"))
    graph = json.loads(held[name])
    graph["planted"] = {"expr_str": "__import__('os').getcwd()"}
    held[name] = json.dumps(graph).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pickle_a_weight, r"holds archive/data/weights/weight_\d"),
        (add_an_object, "holds its record archive/data/constants/opaque_obj_0"),
        (call_something_else, "holds a call of 'torch.hub.load'"),
        (evaluate_something, "holds the expression"),
    ],
)
def test_archive_that_could_run_code_is_refused(
    archive: bytes, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        clean_archive(changed(archive, change))


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle"])
def test_file_that_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"must be a file of torch\.export\.save"):
        clean_archive(content)


def test_damaged_program_is_refused(archive: bytes) -> None:
    def damage(held: dict[str, bytes]) -> None:
        del held[next(name for name in held if name.endswith("models/model.json"))]

    with pytest.raises(IntegrityError, match="must be one that torch"):
        exported_from(changed(archive, damage))
