import hashlib
import json
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc.scoring_server import predictions_to_json
from safetensors.torch import load_file
from torch import Tensor, nn

from lineage import __version__
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.models.networks import build_network
from lineage.registry.flavor import LoadedModel, load_model, read_model, save_model, weights_digest

FILES = {
    "MLmodel",
    "conda.yaml",
    "lineage.json",
    "python_env.yaml",
    "recipe.json",
    "requirements.txt",
    "weights.safetensors",
}


@pytest.fixture(scope="module")
def saved(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(model, str(folder))
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_folder_holds_the_files_of_the_layout_and_no_pickle(saved: Path) -> None:
    assert {str(file.relative_to(saved)) for file in saved.rglob("*")} == FILES
    assert not any(file.read_bytes().startswith((b"\x80", b"PK")) for file in saved.iterdir())


def test_mlmodel_names_both_flavors_and_the_signature(saved: Path) -> None:
    mlmodel = Model.load(str(saved))
    assert mlmodel.flavors.keys() == {"lineage", "python_function"}
    assert mlmodel.flavors["python_function"]["loader_module"] == "lineage.registry.flavor"
    assert mlmodel.signature is not None
    shapes = [schema.inputs[0].shape for schema in (mlmodel.signature.inputs, mlmodel.signature.outputs)]
    assert shapes == [(-1, 3, 8, 8), (-1, 3)]


def test_round_trip_keeps_every_bit(model: LoadedModel, saved: Path, pixels: Tensor) -> None:
    found = read_model(saved)
    assert_same_weights(found.network, model.network)
    assert torch.equal(found.logits(pixels), model.logits(pixels))
    assert torch.equal(found.logits(pixels[:1]), model.logits(pixels[:1]))
    assert not found.network.training


def test_round_trip_keeps_what_is_needed_to_use_the_network(model: LoadedModel, saved: Path) -> None:
    found = read_model(saved)
    assert replace(found, network=model.network) == model
    assert found.class_names == ("red", "green", "blue")


def test_network_without_a_recipe_is_saved_without_one(model: LoadedModel, tmp_path: Path) -> None:
    save_model(replace(model, recipe=""), str(tmp_path))
    assert not (tmp_path / "recipe.json").exists()
    assert read_model(tmp_path).recipe == ""


def test_options_that_fetch_weights_are_not_saved(model: LoadedModel, tmp_path: Path) -> None:
    save_model(replace(model, network_options={"width": 4, "weights": "DEFAULT"}), str(tmp_path))
    assert read_model(tmp_path).network_options == {"width": 4}


def test_logits_are_those_of_normalised_pixels(model: LoadedModel, pixels: Tensor) -> None:
    normalised = pixels.clone()
    for channel, (mean, std) in enumerate(zip((0.25, 0.5, 0.75), (0.125, 0.25, 0.5), strict=True)):
        normalised[:, channel] = (pixels[:, channel] - mean) / std
    with torch.no_grad():
        expected = model.network(normalised)
    assert torch.equal(model.logits(pixels), expected)
    assert not torch.allclose(model.logits(pixels), model.network(pixels))


def test_pyfunc_gives_the_same_logits(model: LoadedModel, saved: Path, pixels: Tensor) -> None:
    found = mlflow.pyfunc.load_model(str(saved)).predict(pixels.numpy())
    assert found.dtype == np.float32
    assert np.array_equal(found, model.logits(pixels).numpy())


def test_pyfunc_gives_probabilities_and_names_where_asked(
    model: LoadedModel, saved: Path, pixels: Tensor
) -> None:
    served = mlflow.pyfunc.load_model(str(saved))
    found = served.predict(pixels.numpy(), {"output": "probabilities"})
    logits = model.logits(pixels)
    assert found["class_names"] == ["red", "green", "blue"]
    assert np.array_equal(found["probabilities"], logits.softmax(1).numpy())
    assert found["predicted"] == [model.class_names[index] for index in logits.argmax(1)]
    answer = StringIO()
    predictions_to_json(found, answer)  # as `mlflow models serve` does
    told = json.loads(answer.getvalue())["predictions"]
    np.testing.assert_allclose(told["probabilities"], logits.softmax(1).numpy(), rtol=1e-6)
    with pytest.raises(UsageError, match="must be logits or probabilities, but got 'classes'"):
        served.predict(pixels.numpy(), {"output": "classes"})


def test_model_saved_before_there_were_parameters_gives_logits(
    model: LoadedModel, copy: Path, pixels: Tensor
) -> None:
    mlmodel = Model.load(str(copy))
    assert mlmodel.signature is not None
    mlmodel.signature.params = None
    mlmodel.save(str(copy / "MLmodel"))
    found = mlflow.pyfunc.load_model(str(copy)).predict(pixels.numpy())
    assert np.array_equal(found, model.logits(pixels).numpy())


def test_model_opened_without_lineage_names_what_to_install(saved: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for place in filter(Path.is_dir, map(Path, site.getsitepackages())):
        for path in place.iterdir():
            if "lineage" not in path.name:
                (packages / path.name).symlink_to(path)
    code = "import sys, mlflow.pyfunc; mlflow.pyfunc.load_model(sys.argv[1])"
    code = f"import sys; sys.path.append({str(packages)!r}); {code}"
    command = [sys.executable, "-I", "-S", "-c", code, str(saved)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert outcome.stderr.endswith("ModuleNotFoundError: No module named 'lineage'\n")
    required = f"lineage-distillation=={__version__}"
    assert f" - lineage-distillation (current: uninstalled, required: {required})\n" in outcome.stderr


def test_environment_managers_are_not_told_to_fetch_lineage(saved: Path) -> None:
    for name in ("conda.yaml", "python_env.yaml"):
        text = (saved / name).read_text()
        assert "torch==" in text
        assert "lineage" not in text


def test_pyfunc_takes_arrays_of_any_strides(model: LoadedModel, saved: Path, pixels: Tensor) -> None:
    strided = np.flip(pixels.numpy(), axis=3)
    found = mlflow.pyfunc.load_model(str(saved)).predict(strided)
    assert np.array_equal(found, model.logits(pixels.flip(3)).numpy())


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 9, 8), np.float32), np.zeros((2, 3, 8, 8), np.float64)])
def test_pyfunc_refuses_what_the_signature_does_not_allow(saved: Path, wrong: np.ndarray) -> None:
    with pytest.raises(MlflowException, match="Failed to enforce schema"):
        mlflow.pyfunc.load_model(str(saved)).predict(wrong)


def test_logged_model_is_read_back_by_its_uri(
    model: LoadedModel, registry: object, log_one: Callable[..., Any], pixels: Tensor
) -> None:
    uri = f"models:/{log_one().model_id}"
    found = load_model(uri)
    assert_same_weights(found.network, model.network)
    assert torch.equal(found.logits(pixels), model.logits(pixels))
    files = Path(mlflow.artifacts.download_artifacts(uri)).rglob("*")
    assert {file.name for file in files} - {"registered_model_meta"} == FILES


def test_digest_of_a_network_is_that_of_its_file(model: LoadedModel, saved: Path) -> None:
    file = saved / "weights.safetensors"
    assert weights_digest(saved) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights_digest(model.network) == weights_digest(saved)
    assert weights_digest(read_model(saved).network) == weights_digest(saved)


def test_digest_depends_on_every_value_and_on_no_layout(model: LoadedModel, saved: Path) -> None:
    network = read_model(saved).network.to(memory_format=torch.contiguous_format).train()
    assert weights_digest(network) == weights_digest(model.network)
    next(buffer for name, buffer in network.named_buffers() if "running_mean" in name)[0] += 1
    assert weights_digest(network) != weights_digest(model.network)


def test_tied_weights_are_saved(model: LoadedModel, tmp_path: Path) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    save_model(replace(model, network=nn.Sequential(first, second)), str(tmp_path))
    found = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(found["0.weight"], found["1.weight"])


@pytest.mark.parametrize("name", ["lineage.json", "weights.safetensors"])
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(NotFoundError, match=f"must hold {name}, but this one does not"):
        read_model(copy)


def test_digest_of_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"must hold weights.safetensors"):
        weights_digest(tmp_path)


def test_later_schema_is_refused(copy: Path) -> None:
    change_json(copy / "lineage.json", schema=2)
    with pytest.raises(IntegrityError, match="schema must be at most 1, but is 2; update lineage"):
        read_model(copy)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "[" * 5000,
        '{"schema": null, "network": {"name": "resnet8", "options": {}}, "data": {}}',
        '{"schema": 1, "network": [], "data": {}}',
        '{"schema": 1, "network": {"name": 8, "options": {}}, "data": {}}',
        '{"schema": 1, "network": {"name": "resnet8", "options": []}, "data": {}}',
        '{"schema": 1, "network": {"name": "ensemble", "members": [1]}, "data": {}}',
        '{"schema": 1, "network": {"name": "ensemble", "members": [{"id": "digits/1"}]}, "data": {}}',
        '{"schema": 1, "network": {"name": "resnet8", "options": {}}, "data": []}',
    ],
)
def test_damaged_structure_is_refused(copy: Path, text: str) -> None:
    (copy / "lineage.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"lineage.json must be what lineage wrote"):
        read_model(copy)


def test_recipe_that_is_no_text_is_refused(copy: Path) -> None:
    (copy / "recipe.json").write_bytes(b"\xff\xfe")
    with pytest.raises(IntegrityError, match=r"recipe.json must be what lineage wrote"):
        read_model(copy)


def test_structure_without_its_network_is_refused(copy: Path) -> None:
    structure = json.loads((copy / "lineage.json").read_text())
    del structure["network"]
    (copy / "lineage.json").write_text(json.dumps(structure))
    with pytest.raises(IntegrityError, match=r"lineage.json must be what lineage wrote, but .*'network'"):
        read_model(copy)


def test_truncated_weights_are_refused(copy: Path) -> None:
    file = copy / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="weights must fit network 'resnet8', but do not"):
        read_model(copy)


def test_weights_of_another_network_are_refused_in_one_line(copy: Path, model: LoadedModel) -> None:
    wider = build_network("resnet8", 3, (3, 8, 8), {"width": 8})
    save_model(replace(model, network=wider), str(copy))
    with pytest.raises(IntegrityError, match="size mismatch") as caught:
        read_model(copy)
    assert "\n" not in str(caught.value)
