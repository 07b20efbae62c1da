import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import cachetools
import lineage_mlflow.families
import pytest
from lineage_mlflow.families import _MAX_DOCUMENTS, FamilyReader
from mlflow import MlflowClient

from lineage.registry.family.tags import AUDITED_TAG

NUM_THREADS = _MAX_DOCUMENTS + 8


@pytest.fixture
def interrupted_threads() -> Iterator[None]:
    """Has threads pause between any two lines of the cache, so that others come in between."""
    traced = (str(lineage_mlflow.families.__file__), str(Path(cachetools.__file__).parent))
    draw = random.Random(0)

    def pause(*_arguments: Any) -> Any:
        time.sleep(0.005 if draw.random() < 0.05 else 0)
        return pause

    before = threading.gettrace()
    threading.settrace(lambda frame, *_: pause if frame.f_code.co_filename.startswith(traced) else None)
    yield
    threading.settrace(before)  # type: ignore[arg-type]


@pytest.fixture
def empty_family(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the one registered model in a store, which has no versions."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return str(MlflowClient().create_registered_model("family0").name)


def test_more_families_than_the_cache_holds_are_read_at_once(
    interrupted_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {
        "_readable_experiment": lambda _name, _may_read: "",
        "_require_model": lambda name: name,
        "_state_token": lambda *_arguments: "unchanged",
        "students_elsewhere": lambda _name: (),
        "_read_packed_document": lambda _workspace, name, *_arguments: name.encode(),
    }
    for name, part in parts.items():  # the registry is too slow to be asked so often
        monkeypatch.setattr(lineage_mlflow.families, name, part)
    reader = FamilyReader()
    names = [f"family{i}" for i in range(4 * NUM_THREADS)]
    read = partial(reader.document, may_read_model=lambda _name: True, may_read_runs=lambda _experiment: True)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        assert list(threads.map(read, names)) == [name.encode() for name in names]


def test_document_is_read_once_for_many_threads(empty_family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read_family = lineage_mlflow.families.read_family

    def counted(name: str) -> Any:
        reads.append(name)
        return read_family(name)

    monkeypatch.setattr(lineage_mlflow.families, "read_family", counted)
    reader, together = FamilyReader(), Barrier(NUM_THREADS)

    def read(_number: int) -> bytes:
        together.wait()
        return reader.document(empty_family, lambda _name: True, lambda _experiment: True)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        documents = set(threads.map(read, range(NUM_THREADS)))
    assert len(documents) == 1
    assert reads == [empty_family]


def test_document_is_read_again_after_a_change(empty_family: str) -> None:
    reader = FamilyReader()
    before = reader.document(empty_family, lambda _name: True, lambda _experiment: True)
    MlflowClient().set_registered_model_tag(empty_family, "a", "b")
    MlflowClient().update_registered_model(empty_family, "changed")
    assert reader.document(empty_family, lambda _name: True, lambda _experiment: True) != before


def test_document_is_read_again_after_an_audit(empty_family: str) -> None:
    reader = FamilyReader()
    before = reader.progress(empty_family, lambda _experiment: True)["token"]
    MlflowClient().set_registered_model_tag(empty_family, AUDITED_TAG, "2026-11-28T14:00:00+00:00")
    assert reader.progress(empty_family, lambda _experiment: True)["token"] != before
