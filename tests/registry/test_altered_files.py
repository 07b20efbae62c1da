"""Every file of a version is verified wherever the version is loaded, not its weights alone."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import save_file

from lineage.errors import AlteredFilesError, IntegrityError
from lineage.models.ensemble import EnsembleNetwork
from lineage.registry.care.doctor import examine
from lineage.registry.care.weights import are_finite
from lineage.registry.family.family import Member, Version
from lineage.registry.family.lookup import find_version
from lineage.registry.flavor import (
    LoadedModel,
    load_version,
    log_model,
    read_model,
    save_model,
    weights_digest,
)
from lineage.registry.store.artifacts import require_numbers
from lineage.registry.store.files import LOADER_MODULE, files_digest, require_own_loader

Make = Callable[..., Version]


@pytest.fixture
def version(sqlite_registry: Any, name: str, add_version: Make, log_one: Callable[..., Any]) -> Version:
    logged = log_one(experiment=name)
    made = add_version(logged=logged)
    logged.run.finish(made)
    return made


def change_structure(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    structure = json.loads((folder / "lineage.json").read_text())
    change(structure["data"])
    (folder / "lineage.json").write_text(json.dumps(structure, indent=1))


def change_mlmodel(folder: Path, **changes: object) -> None:
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    mlmodel["flavors"]["python_function"] |= changes
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))


CHANGES: dict[str, Callable[[Path], object]] = {
    "mean": lambda folder: change_structure(folder, lambda data: data.update(mean=[0.5, 0.5, 0.5])),
    "class order": lambda folder: change_structure(folder, lambda data: data["class_names"].reverse()),
    "loader": lambda folder: change_mlmodel(folder, loader_module="os"),
    "code": lambda folder: change_mlmodel(folder, code="code"),
    "recipe": lambda folder: (folder / "recipe.json").write_text("{}"),
    "requirements": lambda folder: (folder / "requirements.txt").write_text("evil==1"),
    "another file": lambda folder: (folder / "lineage.py").write_text(""),
    "a missing file": lambda folder: (folder / "recipe.json").unlink(),
    "no MLmodel": lambda folder: (folder / "MLmodel").unlink(),
    "damaged MLmodel": lambda folder: (folder / "MLmodel").write_text("flavors: ["),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_altered_file_is_found_by_loading_and_by_doctor(
    version: Version, sqlite_registry: Any, change: Callable[[Path], object]
) -> None:
    change(sqlite_registry.weights_file(version).parent)
    with pytest.raises(AlteredFilesError, match=f"^The files of {version.uri} must have the SHA-256"):
        load_version(version)
    (finding,) = examine(version.name, lambda _: False).findings
    assert (finding.check, finding.subject) == ("altered-files", version.uri)


@pytest.mark.parametrize("change", [CHANGES["mean"], CHANGES["class order"], CHANGES["recipe"]])
def test_altered_file_is_found_by_pyfunc(
    version: Version, sqlite_registry: Any, change: Callable[[Path], object]
) -> None:
    mlflow.pyfunc.load_model(version.uri)
    change(sqlite_registry.weights_file(version).parent)
    with pytest.raises(
        AlteredFilesError, match=f"^The files of models:/{version.model_id} must have the SHA"
    ):
        mlflow.pyfunc.load_model(version.uri)


@pytest.mark.parametrize("undigested", [False, True])
def test_altered_file_is_found_by_pyfunc_though_the_model_names_another_or_none_with_a_digest(
    version: Version, sqlite_registry: Any, undigested: bool
) -> None:
    folder = sqlite_registry.weights_file(version).parent
    CHANGES["mean"](folder)
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    if undigested:
        MlflowClient().delete_logged_model_tag(version.model_id, "lineage.files_sha256")
    else:
        (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel | {"model_id": "m-0"}))
    with pytest.raises(AlteredFilesError, match=f"^The files of {version.uri} must have the SHA-256"):
        mlflow.pyfunc.load_model(version.uri)


def test_pyfunc_loads_a_model_carried_to_where_no_store_is(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(version.uri, dst_path=str(tmp_path / "carried")))
    elsewhere = tmp_path / "elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    mlflow.pyfunc.load_model(str(folder))
    assert not elsewhere.exists()


def test_untouched_version_is_healthy_on_every_store_and_once_mlflow_has_added_its_file(
    registry: Any, name: str, add_version: Make, log_one: Callable[..., Any]
) -> None:
    logged = log_one(experiment=name)
    made = add_version(logged=logged)
    logged.run.finish(made)
    diagnosis = examine(name, lambda _: False)
    assert (diagnosis.findings, diagnosis.notes) == ((), ())
    folder = Path(mlflow.artifacts.download_artifacts(made.uri))
    assert (folder / "registered_model_meta").is_file()
    assert files_digest(folder) == made.files_sha256 == find_version(made.uri).files_sha256
    assert len(made.files_sha256) == 64


def test_version_without_the_digest_loads_and_is_told_of(version: Version, sqlite_registry: Any) -> None:
    MlflowClient().delete_model_version_tag(version.name, "1", "lineage.files_sha256")
    CHANGES["mean"](sqlite_registry.weights_file(version).parent)
    assert load_version(find_version(version.uri)).mean == (0.5, 0.5, 0.5)
    diagnosis = examine(version.name, lambda _: False)
    assert diagnosis.healthy
    assert diagnosis.notes == (
        "1 version (1) registered without a digest of all files: of these, only the weights were verified.",
    )
    assert diagnosis.to_json()["notes"] == list(diagnosis.notes)


def test_version_without_the_digest_is_refused_with_another_loader(
    version: Version, sqlite_registry: Any
) -> None:
    MlflowClient().delete_model_version_tag(version.name, "1", "lineage.files_sha256")
    CHANGES["loader"](sqlite_registry.weights_file(version).parent)
    with pytest.raises(AlteredFilesError, match=f"must be {LOADER_MODULE}, but is 'os'"):
        load_version(find_version(version.uri))


def test_member_of_an_ensemble_is_verified_by_its_files(
    version: Version, sqlite_registry: Any, model: LoadedModel, tmp_path: Path
) -> None:
    member = Member(version.id, version.model_id, version.weights_sha256, 1.0, version.files_sha256)
    ensemble = replace(
        model, network=EnsembleNetwork([model.network], [1]), network_name="ensemble", members=(member,)
    )
    save_model(ensemble, str(tmp_path))
    assert read_model(tmp_path).members == (member,)
    CHANGES["class order"](sqlite_registry.weights_file(version).parent)
    with pytest.raises(AlteredFilesError, match=version.uri):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "valid dictionary"),
        ("flavors: 3", "valid dictionary"),
        ("flavors: {python_function: [1, 2, 3]}", "'python_function'"),
        ("a: &a [1]\nflavors: {x: {y: *a}}", "it has an alias"),
        ("[" * 5000, "is not"),
        ("\x00", "is not"),
        ("2026-13-45: 1", "is not"),
    ],
)
def test_mlmodel_that_is_malformed_is_told_in_a_sentence(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    for read in (files_digest, require_own_loader):
        with pytest.raises(IntegrityError, match=f"^MLmodel must be what .*{problem}"):
            read(tmp_path)


def with_weight(model: LoadedModel, value: float) -> LoadedModel:
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0] = value
    return replace(model, network=network)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_not_logged(
    model: LoadedModel, sqlite_registry: Any, open_run: Callable[..., Any], value: float
) -> None:
    run = open_run()
    with pytest.raises(IntegrityError, match=rf"must be finite numbers, but '[\w.]+' holds {value}"):
        log_model(with_weight(model, value), "broken", run.run_id, {})
    assert MlflowClient().get_run(run.run_id).outputs.model_outputs == []


def test_infinities_of_an_attention_mask_are_no_broken_weights() -> None:
    network = torch.nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    require_numbers(network, "it")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_registered_weights_that_are_not_finite_are_found(
    version: Version, sqlite_registry: Any, model: LoadedModel, value: str
) -> None:
    """The version was registered by a tool that did not look at its weights."""
    folder = sqlite_registry.weights_file(version).parent
    broken = with_weight(model, float(value))
    save_model(broken, str(folder))
    tags = {"weights_sha256": weights_digest(broken.network), "files_sha256": files_digest(folder)}
    for tag, digest in tags.items():
        MlflowClient().set_model_version_tag(version.name, "1", f"lineage.{tag}", digest)
    (finding,) = examine(version.name, lambda _: False).findings
    assert finding.check == "not-finite"
    assert f"The weights of {version.uri} must be finite numbers" in finding.problem
    assert f"holds {value}" in finding.problem
    assert "train or adopt it again" in finding.remedy


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_judged_from_the_bits_of_a_file(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    numbers = torch.tensor([[0.0, -1.5], [torch.finfo(dtype).max, torch.finfo(dtype).tiny]], dtype=dtype)
    file = tmp_path / "weights.safetensors"
    counts = torch.tensor([-1, 2**62])
    save_file({"a": numbers, "counts": counts, "none": numbers[:0]}, file)
    assert are_finite(file)
    numbers[1, 0] = value
    save_file({"a": numbers, "counts": counts}, file)
    assert not are_finite(file)


def test_numbers_of_a_damaged_file_or_of_an_unknown_type_are_not_judged(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, file)
    assert not are_finite(file)
    file.write_bytes(file.read_bytes()[:-1])
    assert not are_finite(file)
