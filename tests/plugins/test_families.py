import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import lineage_mlflow.families
import pytest
from lineage_mlflow.families import _MAX_DOCUMENTS, FamilyReader
from mlflow import MlflowClient

NUM_FAMILIES = _MAX_DOCUMENTS + 8
NUM_THREADS = 8


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Has threads take turns as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def many_families(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of more families than the cache holds."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient()
    return [client.create_registered_model(f"family{i}").name for i in range(NUM_FAMILIES)]


def name_of(packed: bytes) -> Any:
    return json.loads(gzip.decompress(packed))["family"]["name"]


def test_more_families_than_the_cache_holds_are_read_by_many_threads(
    many_families: list[str], busy_threads: None
) -> None:
    reader = FamilyReader()
    names = many_families * 2
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        documents = list(threads.map(lambda name: reader.document(name, lambda _experiment: True), names))
    assert [name_of(document) for document in documents] == names


def test_document_is_read_once_for_many_threads(
    many_families: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read_family = lineage_mlflow.families.read_family

    def counted(name: str) -> Any:
        reads.append(name)
        return read_family(name)

    monkeypatch.setattr(lineage_mlflow.families, "read_family", counted)
    reader, together = FamilyReader(), Barrier(NUM_THREADS)

    def read(_number: int) -> bytes:
        together.wait()
        return reader.document("family0", lambda _experiment: True)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        documents = set(threads.map(read, range(NUM_THREADS)))
    assert len(documents) == 1
    assert reads == ["family0"]


def test_document_is_read_again_after_a_change(many_families: list[str]) -> None:
    reader = FamilyReader()
    before = reader.document("family0", lambda _experiment: True)
    MlflowClient().set_registered_model_tag("family0", "a", "b")
    MlflowClient().update_registered_model("family0", "changed")
    assert reader.document("family0", lambda _experiment: True) != before
