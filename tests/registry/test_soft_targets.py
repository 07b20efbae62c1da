from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.data.datasets import DataSpec
from lineage.errors import IntegrityError, NotFoundError
from lineage.registry.care.doctor import examine
from lineage.registry.family.family import Version
from lineage.registry.store.soft_targets import (
    SoftTargetsEntry,
    download_soft_targets,
    find_soft_targets,
    keep_soft_targets,
    local_soft_targets,
    start_soft_targets_run,
)

DIGEST = "e" * 64
TAG = "lineage.signals.eeeeeeeeeeeeeeee"
AddVersion = Callable[..., Version]


@pytest.fixture
def keep(
    add_version: AddVersion, tiles: DataSpec, tmp_path: Path
) -> Callable[[str], tuple[Version, SoftTargetsEntry]]:
    """Registers a version in a family and keeps soft targets of one file with it."""

    def keep_one(family: str) -> tuple[Version, SoftTargetsEntry]:
        version = add_version(family=family)
        folder = tmp_path / "computed"
        folder.mkdir()
        (folder / "view-1").write_text("logits")
        run = start_soft_targets_run(version, {"views": 2}, tiles)
        entry = SoftTargetsEntry(run.run_id, 2, 4.0)
        keep_soft_targets(version, DIGEST, entry, folder, {"seconds": 0.5})
        return version, entry

    return keep_one


def test_kept_soft_targets_are_found_and_fetched(
    registry: Any, keep: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    version, entry = keep(name)
    assert find_soft_targets(version, DIGEST) == entry
    assert find_soft_targets(version, "f" * 64) is None
    folder = local_soft_targets(entry) or download_soft_targets(entry, tmp_path / "fetched")
    assert (folder / "view-1").read_text() == "logits"
    assert MlflowClient().get_run(entry.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("sign", ["#", "?", "%20", " ü'"])
def test_folder_of_any_name_is_read_in_place(
    home: Path, keep: Callable[..., Any], name: str, sign: str, tmp_path: Path
) -> None:
    _, entry = keep(f"{name}{sign}1")
    folder = local_soft_targets(entry)
    assert folder is not None
    assert (folder / "view-1").read_text() == "logits"
    assert folder.is_relative_to(home / "mlruns")


def test_soft_targets_without_files_are_not_found(
    sqlite_registry: Any, add_version: AddVersion, tiles: DataSpec, tmp_path: Path
) -> None:
    run = start_soft_targets_run(add_version(), {"views": 2}, tiles)
    with pytest.raises(NotFoundError, match=f"Run {run.run_id} must hold the teacher's soft targets"):
        local_soft_targets(SoftTargetsEntry(run.run_id, 2))


def test_download_replaces_a_folder_that_is_there(
    http_registry: Any, keep: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    _, entry = keep(name)
    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "views-done").write_text("1")
    assert download_soft_targets(entry, folder) == folder
    assert [file.name for file in folder.iterdir()] == ["view-1"]


ALTERED = [
    "[]",
    "{",
    "[" * 5000,
    '{"run_id": 5, "views": 2}',
    '{"run_id": "not a run", "views": 2}',
    '{"run_id": "a", "views": "some"}',
    '{"run_id": "a", "views": 2, "temperature": "hot"}',
]


@pytest.mark.parametrize("altered", ALTERED)
def test_altered_tag_is_refused(registry: Any, keep: Callable[..., Any], name: str, altered: str) -> None:
    version, _ = keep(name)
    MlflowClient().set_model_version_tag(name, "1", TAG, altered)
    sentence = f"The tag {TAG} of {version.uri} must be what lineage wrote, but was altered: .*; delete it"
    with pytest.raises(IntegrityError, match=sentence):
        find_soft_targets(version, DIGEST)


@pytest.mark.parametrize("altered", ALTERED)
def test_altered_tag_is_found_by_an_examination(
    sqlite_registry: Any, keep: Callable[..., Any], name: str, altered: str
) -> None:
    keep(name)
    MlflowClient().set_model_version_tag(name, "1", TAG, altered)
    diagnosis = examine(name, lambda _: False, weights=False)
    assert [finding.check for finding in diagnosis.findings] == [
        "missing-soft-targets",
        "unused-soft-targets",
    ]
    assert f"The tag {TAG} of models:/{name}/1" in diagnosis.findings[0].problem
