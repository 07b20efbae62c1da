import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models

import lineage
from lineage.data.images import DataSpec
from lineage.errors import IntegrityError, UsageError
from lineage.exchange import export as exporting
from lineage.exchange.forms import write_onnx, write_program, write_weights
from lineage.models.ensemble import EnsembleNetwork
from lineage.models.exported import ExportedNetwork, export
from lineage.models.networks import NETWORKS, build_network
from lineage.models.portable import network_source
from lineage.registry.family.family import Version
from lineage.registry.store.artifacts import LoadedModel

_MISSING = [name for name in ("onnx", "onnxruntime", "onnxscript") if not importlib.util.find_spec(name)]
needs_onnx = pytest.mark.skipif(bool(_MISSING), reason=f"{', '.join(_MISSING)} not installed: extra 'onnx'")


@pytest.fixture(scope="module")
def version(module_home: Path) -> Version:
    """A small network for digits whose normalisation is neither 0 nor 1."""
    torch.manual_seed(0)
    network = build_network("resnet8", 10, (1, 8, 8), {"width": 4})
    network(torch.randn(64, 1, 8, 8))
    file = module_home / "weights.safetensors"
    save_file(network.state_dict(), file)
    candidate = lineage.Candidate(network="resnet8", weights=str(file))
    return lineage.adopt("exported", candidate, data="digits", overrides=["network.width=4"]).version


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def loaded(
    name: str, options: dict[str, Any], shape: tuple[int, int, int], num_classes: int = 4
) -> LoadedModel:
    torch.manual_seed(0)
    names = tuple(f"class {i}" for i in range(num_classes))
    spec = DataSpec("made", names, None, (0.4,) * shape[0], (0.25,) * shape[0], shape, "d" * 64)
    network = build_network(name, len(names), shape, options)
    if name in NETWORKS:
        network.train()(torch.randn(8, *shape))  # so that logits are of the size that trained networks give
    return LoadedModel(network.eval(), name, options, spec)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def run_without_lineage(code: str, folder: Path) -> str:
    """Run a program, in the exported folder, in which lineage cannot be imported."""
    preamble = "import sys; sys.modules['lineage'] = None\n"
    command = [sys.executable, "-c", preamble + code]
    outcome = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return outcome.stdout


@needs_onnx
def test_onnx_gives_the_versions_logits_for_any_batch(
    version: Version, tmp_path: Path, pixels: Tensor
) -> None:
    import onnxruntime

    outcome = lineage.export(version.uri, tmp_path / "new" / "onnx")
    assert outcome.files == ("config.json", "model.onnx")
    assert outcome.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "new" / "onnx" / "model.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("pixels", ["batch", 1, 8, 8])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list("0123456789")
    (logits,) = session.run(None, {"pixels": pixels.numpy()})
    assert_same(torch.from_numpy(logits), lineage.load(version.uri).logits(pixels))


def test_program_gives_the_versions_logits_for_any_batch(
    version: Version, tmp_path: Path, pixels: Tensor
) -> None:
    lineage.export(version.uri, tmp_path / "pt2", "pt2")
    texts = {"class_names.json": ""}
    program = torch.export.load(tmp_path / "pt2" / "model.pt2", extra_files=texts).module()
    assert json.loads(texts["class_names.json"]) == list("0123456789")
    assert_same(program(pixels), lineage.load(version.uri).logits(pixels))


def test_exported_weights_are_used_without_lineage(version: Version, tmp_path: Path, pixels: Tensor) -> None:
    folder = tmp_path / "weights"
    outcome = lineage.export(version.uri, str(folder), "safetensors")
    assert outcome.files == ("config.json", "model.safetensors", "network.py")
    np.save(folder / "pixels.npy", pixels.numpy())
    code = (
        "import json, numpy, torch, network\n"
        "logits = network.load()(torch.from_numpy(numpy.load('pixels.npy')))\n"
        "numpy.save('logits.npy', logits.detach().numpy())\n"
        "print(json.load(open('config.json'))['class_names'])\n"
    )
    assert run_without_lineage(code, folder) == f"{list('0123456789')}\n"
    logits = torch.from_numpy(np.load(folder / "logits.npy"))
    assert_same(logits, lineage.load(version.uri).logits(pixels))


def test_exported_config_names_version_and_normalisation(version: Version, tmp_path: Path) -> None:
    lineage.export(version.uri, tmp_path / "weights", "safetensors")
    config = json.loads((tmp_path / "weights" / "config.json").read_text())
    assert config["version"] == version.uri
    assert config["weights_sha256"] == version.weights_sha256
    assert (config["network"], config["options"]) == ("resnet8", {"width": 4})
    assert tuple(config["mean"]) == lineage.load(version.uri).mean


@pytest.mark.parametrize("name", ["width=print('run'), x", "class", ""])
def test_option_of_a_registry_that_would_be_code_is_refused(name: str, version: Version) -> None:
    spec = lineage.load(version.uri).spec
    with pytest.raises(UsageError, match="must have names that Python takes"):
        network_source("resnet8", {name: 4}, spec)


def test_folder_that_exists_is_refused(version: Version, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FOLDER must not exist yet"):
        lineage.export(version.uri, tmp_path, "pt2")


def test_folder_that_cannot_be_written_is_refused(version: Version, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="FOLDER must be writable, but"):
        lineage.export(version.uri, tmp_path / "file" / "folder", "pt2")


def test_unknown_form_is_refused(version: Version, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be exported as onnx, pt2, .*Did you mean 'onnx'"):
        lineage.export(version.uri, tmp_path / "folder", "onxx")  # type: ignore[arg-type]


def test_other_logits_are_refused_and_leave_nothing(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other(model: LoadedModel, folder: Path) -> Callable[[Tensor], Tensor]:
        run = write_program(model, folder)
        return lambda pixels: run(pixels) + 0.01

    monkeypatch.setitem(exporting.FORMS, "pt2", write_other)
    with pytest.raises(IntegrityError, match=r"must be its own within 0.0001, but differ by 0.01"):
        lineage.export(version.uri, tmp_path / "folder", "pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_weights_have_torchvisions_own_names(name: str, tmp_path: Path) -> None:
    model = loaded(f"torchvision:{name}", {}, (3, 32, 32))
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(write_weights(model, tmp_path)(pixels), model.logits(pixels))
    own = models.get_model(name, num_classes=4).eval()
    own.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(own((pixels - 0.4) / 0.25), model.logits(pixels))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "vit_b_32", "densenet121", "swin_t"])
def test_weights_of_other_kinds_have_torchvisions_own_names(name: str, tmp_path: Path) -> None:
    model = loaded(f"torchvision:{name}", {}, (3, 96, 96))
    pixels = torch.rand(2, 3, 96, 96)
    assert_same(write_weights(model, tmp_path)(pixels), model.logits(pixels))


def ensemble() -> LoadedModel:
    model = loaded("resnet8", {"width": 2}, (1, 8, 8))
    network = EnsembleNetwork([model.network, loaded("resnet8", {"width": 3}, (1, 8, 8)).network], [1.0, 2.0])
    return LoadedModel(network.eval(), "ensemble", {}, model.spec)


def program(dynamic: bool = True) -> LoadedModel:
    model = loaded("resnet8", {"width": 2}, (1, 8, 8))
    network = ExportedNetwork(4, (1, 8, 8))
    if dynamic:
        network.read(export(model.network, (1, 8, 8)))
    else:
        fixed = torch.export.export(model.network, (torch.zeros(3, 1, 8, 8),))
        path = Path("fixed.pt2")
        torch.export.save(fixed, path)
        network.read(path.read_bytes())
    return LoadedModel(network.eval(), "pt2", {}, model.spec)


@pytest.mark.parametrize(("make", "what"), [(ensemble, "an ensemble"), (program, "an exported program")])
def test_what_no_function_builds_is_exported_as_a_program_alone(
    make: Callable[[], LoadedModel], what: str, tmp_path: Path, pixels: Tensor
) -> None:
    model = make()
    with pytest.raises(UsageError, match=f"this is {what}; use --to onnx or --to pt2"):
        write_weights(model, tmp_path)
    assert_same(write_program(model, tmp_path)(pixels), model.logits(pixels))


def test_program_of_one_batch_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="batches of any size to be exported, but takes 3 to 3 images"):
        write_program(program(dynamic=False), tmp_path)


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))


def test_network_that_torch_cannot_export_is_refused(tmp_path: Path) -> None:
    spec = loaded("resnet8", {"width": 2}, (4, 8, 8)).spec
    model = LoadedModel(Unexportable(), "own:network", {}, spec)
    with pytest.raises(
        UsageError, match="must be one that torch can export for batches of any size"
    ) as caught:
        write_program(model, tmp_path)
    assert "\n" not in str(caught.value)


_LARGER = {"wrn-28-10", "densenet-bc-190-40"}  # larger, of the same code


@needs_onnx
@pytest.mark.slow  # the version above is a ResNet-8
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - _LARGER))
def test_onnx_of_shipped_networks_gives_their_logits(name: str, tmp_path: Path) -> None:
    model = loaded(name, {}, (3, 16, 16))
    pixels = torch.rand(3, 3, 16, 16)
    assert_same(write_onnx(model, tmp_path)(pixels), model.logits(pixels))
