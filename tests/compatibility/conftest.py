"""A store that a former version of ``lineage`` wrote, as files in the repository."""

import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parent / "store-before-renaming.tar.xz"


@pytest.fixture(scope="module")
def former_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The store in use, in a working directory of its own.

    It was written before recipe keys were renamed. Families: ``elders`` (a patriarch, students of a live
    teacher and of stored soft targets, an ensemble, an adopted network), ``branch`` (a student of elders/2)
    and ``trials`` (a study of two trials).
    Databases are SQL text, in which ``@STORE@`` stands for the folder.
    """
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for dump in folder.glob("*.sql"):
        with closing(sqlite3.connect(dump.with_suffix(".db"))) as database:
            database.executescript(dump.read_text().replace("@STORE@", str(folder)))
    text_files = [*folder.rglob("MLmodel"), *folder.rglob("*.json"), *folder.rglob("*.yaml")]
    for file in text_files:
        file.write_text(file.read_text().replace("@STORE@", str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.delenv("LINEAGE_HOME", raising=False)
        yield folder
