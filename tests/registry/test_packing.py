"""A family is carried from one store to another, with its runs, edges and weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.errors import IntegrityError, NotFoundError, RegistryError, UsageError
from lineage.exchange.pack import pack
from lineage.exchange.unpack import unpack
from lineage.registry.care.doctor import examine
from lineage.registry.care.remove import read_tombstones, remove
from lineage.registry.family.aliases import promote
from lineage.registry.family.family import Member, Version
from lineage.registry.family.history import read_history
from lineage.registry.family.lookup import read_family
from lineage.registry.flavor import load_version
from lineage.registry.packing.identities import Identities
from lineage.registry.packing.reading import lacks_weights
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.runs import GenerationRun

AddVersion = Callable[..., Version]
Target = Callable[[], None]


@pytest.fixture
def target(sqlite_registry: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Function that makes an empty sqlite store the one in use, in place of ``sqlite_registry``."""
    return lambda: monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")


@pytest.fixture
def packed(
    target: Target, name: str, add_version: AddVersion, log_one: Callable[..., Any], tmp_path: Path
) -> Path:
    """An archive of a family of two generations, of which the second has a removed teacher, and an alias."""
    logged = log_one()
    patriarch = add_version(logged=logged, metrics={"test_accuracy": 0.5, "validation_accuracy": 0.5})
    teacher = add_version(patriarch, logged=logged)
    add_version(teacher, logged=logged)
    logged.run.stop("FINISHED")
    promote(patriarch.uri, "champion")
    remove(teacher.uri, force=True)
    pack(name, tmp_path / "packed.zip")
    return tmp_path / "packed.zip"


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """The same files in a folder."""
    shutil.unpack_archive(packed, tmp_path / "folder")
    return tmp_path / "folder"


def _described(name: str) -> list[Any]:
    versions = [
        (v.version, v.generation, v.teacher, v.key, v.weights_sha256, v.metrics, v.aliases, v.root)
        for v in read_family(name)
    ]
    removed = [(stone.version.id, stone.version.teacher, stone.removed) for stone in read_tombstones(name)]
    events = [
        (e.event, e.version, e.alias, e.previous, e.user, e.time, e.inferred) for e in read_history(name)
    ]
    return [versions, removed, events]


def _run_of(version: Version) -> Any:
    run = MlflowClient().get_run(version.run_id)
    inputs = [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs]
    times = (run.info.status, run.info.start_time)
    return run.data.params, run.data.metrics, run.data.tags["lineage.key"], inputs, times


def _nothing_in_the_store(name: str) -> bool:
    experiment = MlflowClient().get_experiment_by_name(name)
    runs = MlflowClient().search_runs([experiment.experiment_id]) if experiment is not None else []
    return not runs and not MlflowClient().search_registered_models(f"name = '{name}'")


def test_family_is_the_same_in_another_store_under_new_ids(packed: Path, name: str, target: Target) -> None:
    described, former = _described(name), read_family(name).versions
    run = _run_of(former[0])
    target()
    unpacking = unpack(packed)
    assert unpacking.added == (f"{name}/1", f"{name}/3")
    assert _described(name) == described
    new = read_family(name).versions
    assert {v.model_id for v in new}.isdisjoint(v.model_id for v in former)
    assert {v.run_id for v in new}.isdisjoint(v.run_id for v in former)
    assert new[1].teacher_model_id == former[1].teacher_model_id or new[1].teacher_model_id == new[0].model_id
    assert _run_of(new[0]) == run
    assert load_version(new[1]).network_name == "resnet8"
    assert examine(name, lambda _key: False).findings == ()


def test_family_is_carried_to_a_server(
    packed: Path, name: str, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = _described(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    unpack(packed)
    assert _described(name) == described
    assert examine(name, lambda _key: False).findings == ()


def test_same_family_gives_the_same_bytes(packed: Path, name: str, tmp_path: Path) -> None:
    pack(name, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_known_name_is_refused_and_merged_by_key(
    packed: Path, name: str, target: Target, add_version: AddVersion, tmp_path: Path
) -> None:
    held = read_family(name).versions
    target()
    other = add_version(family=name, key="another")
    GenerationRun(other.run_id).stop("FINISHED")
    with pytest.raises(IntegrityError, match=f"must not hold '{name}' yet.*--merge"):
        unpack(packed)
    assert [version.id for version in read_family(name)] == [other.id]
    assert unpack(packed, merge=True).added == (f"{name}/2", f"{name}/4")
    merged = read_family(name).versions
    assert [version.key for version in merged] == ["another", *(version.key for version in held)]
    assert merged[2].teacher == f"{name}/3"
    assert [stone.version.id for stone in read_tombstones(name)] == [f"{name}/3"]
    assert examine(name, lambda _key: False).findings == ()
    again = unpack(packed, merge=True)
    assert (again.added, again.held, again.num_runs) == ((), 2, 0)
    assert read_family(name).versions == merged


def test_family_merged_into_its_own_store_adds_nothing(packed: Path, name: str) -> None:
    before = _described(name)
    unpacking = unpack(packed, merge=True)
    assert (unpacking.added, unpacking.num_runs) == ((), 0)
    assert _described(name) == before


def test_key_with_other_weights_is_refused(
    packed: Path, name: str, target: Target, add_version: AddVersion
) -> None:
    key = read_family(name).versions[0].key
    target()
    add_version(family=name, key=key, weights_sha256="0" * 64)
    with pytest.raises(
        IntegrityError, match=f"Version 1 of the file must have the weights of models:/{name}/1"
    ):
        unpack(packed, merge=True)
    assert len(read_family(name)) == 1


def test_weights_that_changed_are_refused_before_anything_is_written(
    folder: Path, name: str, target: Target
) -> None:
    target()
    weights = next(folder.rglob("weights.safetensors"))
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    with pytest.raises(IntegrityError, match=r"The weights of version 1 must have the SHA-256"):
        unpack(folder)
    weights.unlink()
    with pytest.raises(IntegrityError, match=r"but have none: .*weights.safetensors"):
        unpack(folder)
    assert MlflowClient().get_experiment_by_name(name) is None


def test_family_without_weights_is_text_that_can_be_shown(
    packed: Path, name: str, target: Target, tmp_path: Path
) -> None:
    described = _described(name)
    packing = pack(name, tmp_path / "texts", with_weights=False)
    assert not packing.with_weights
    files = [path for path in packing.file.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".txt", ".yaml", ""}
    assert not any(str(tmp_path) in path.read_text() for path in files)
    target()
    assert not unpack(packing.file).with_weights
    assert _described(name) == described
    assert lacks_weights(name)
    with pytest.raises(
        NotFoundError, match=f"weights of models:/{name}/1 must lie in .* but do not; .* use the store"
    ):
        load_version(read_family(name).versions[0])


def test_failure_takes_back_what_was_written(folder: Path, name: str, target: Target) -> None:
    target()
    run_file = next((folder / "runs").glob("*.json"))
    run = json.loads(run_file.read_text())
    run_file.write_text(json.dumps(run | {"params": {"no\nkey": "x"}}))
    with pytest.raises(RegistryError):
        unpack(folder)
    assert _nothing_in_the_store(name)
    run_file.write_text(json.dumps(run))
    assert len(unpack(folder).added) == 2


def test_edges_to_another_family_are_led_to_its_versions(
    target: Target, name: str, add_version: AddVersion, log_one: Callable[..., Any], tmp_path: Path
) -> None:
    teacher = add_version(family=f"{name}-teachers", logged=log_one())
    member = Member(teacher.id, teacher.model_id, teacher.weights_sha256, 1.0)
    add_version(teacher)
    add_version(kind="ensemble", members=(member,), generation=1)
    pack(name, tmp_path / "students.zip")
    pack(f"{name}-teachers", tmp_path / "teachers.zip")
    target()
    add_version(family=f"{name}-teachers", weights_sha256="0" * 64)
    unpack(tmp_path / "teachers.zip", merge=True)
    assert unpack(tmp_path / "students.zip").missing == ()
    found = read_family(f"{name}-teachers").versions[1]
    student, ensemble = read_family(name).versions
    assert (student.teacher, student.teacher_model_id, student.root) == (found.id, found.model_id, found.id)
    assert [(m.id, m.model_id) for m in ensemble.members] == [(found.id, found.model_id)]


def test_teacher_that_the_store_lacks_is_named(
    target: Target, name: str, add_version: AddVersion, tmp_path: Path
) -> None:
    teacher = add_version(family=f"{name}-teachers")
    add_version(teacher)
    pack(name, tmp_path / "students.zip")
    target()
    assert unpack(tmp_path / "students.zip").missing == (teacher.id,)
    assert [version.teacher for version in read_family(name)] == [teacher.id]


@pytest.mark.parametrize("damage", ["no zip", "no family", "bad json", "later format", "outside", "no model"])
def test_file_that_pack_did_not_write_is_refused(
    folder: Path, name: str, target: Target, tmp_path: Path, damage: str
) -> None:
    target()
    family_file = folder / "family.json"
    family = json.loads(family_file.read_text())
    file = folder
    if damage == "no zip":
        file = tmp_path / "other.zip"
        file.write_text("other")
    elif damage == "no family":
        family_file.unlink()
    elif damage == "bad json":
        family_file.write_text("[" * 10)
    elif damage == "later format":
        family_file.write_text(json.dumps(family | {"format": 99}))
    elif damage == "outside":
        family["versions"][0]["model_id"] = "../../m"
        family_file.write_text(json.dumps(family))
    else:
        shutil.rmtree(folder / "models")
    with pytest.raises(IntegrityError):
        unpack(file)
    assert _nothing_in_the_store(name)


@pytest.mark.parametrize("file", ["family.tar", "taken", "taken.zip"])
def test_file_of_another_ending_or_that_exists_is_not_written(
    target: Target, name: str, add_version: AddVersion, tmp_path: Path, file: str
) -> None:
    add_version()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken.zip").write_text("mine")
    with pytest.raises(UsageError, match="FILE must"):
        pack(name, tmp_path / file)
    assert (tmp_path / "taken.zip").read_text() == "mine"


def test_missing_file_and_empty_family_are_refused(target: Target, name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        unpack(tmp_path / "nothing.zip")
    ensure_experiment(name)
    MlflowClient().create_registered_model(name)
    with pytest.raises(IntegrityError, match="must have a version to be packed"):
        pack(name, tmp_path / "empty.zip")


A, B = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (A, B),
        (f"models:/m-{A}/x", f"models:/m-{B}/x"),
        ("a" * 64, "a" * 64),
        ("models:/tiles/1 and tiles/12", "models:/tiles/7 and tiles/12"),
        ("[tiles/1](#/models/tiles/versions/1)", "[tiles/7](#/models/tiles/versions/7)"),
        ("my-tiles/1, data/tiles/1", "my-tiles/1, data/tiles/1"),
    ],
)
def test_texts_get_new_ids_and_nothing_else(text: str, expected: str) -> None:
    identities = Identities({A: B, f"m-{A}": f"m-{B}"}, {"tiles/1": "tiles/7"})
    assert identities.rewrite(text) == expected
