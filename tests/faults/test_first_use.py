"""The first use of an sqlite store survives other processes and kills."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lineage.registry.store.connection import connect
from lineage.registry.store.database import prepare_database

PREPARE = (
    "from pathlib import Path; from lineage.registry.store.database import prepare_database;"
    "print('ready', flush=True); input(); prepare_database(Path('mlflow.db').resolve())"
)


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def _start(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _leave_half(folder: Path, seconds: float = 60) -> Path:
    """Write what a kill leaves at the start of MLflow's own creation, and not since some seconds."""
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from mlflow.store.tracking.dbmodels.initial_models import Base

    database = folder / "mlflow.db"
    engine = create_sqlalchemy_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    engine.dispose()
    then = time.time() - seconds
    os.utime(database, (then, then))
    return database


def _tables(database: Path) -> set[str]:
    with sqlite3.connect(database) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}


def test_two_first_uses_at_once_share_one_store(empty_home: Path) -> None:
    both = [
        _start(PREPARE + "; from mlflow import MlflowClient; MlflowClient().search_experiments()")
        for _ in "12"
    ]
    assert [process.stdout.readline() for process in both if process.stdout] == ["ready\n"] * 2
    ended = [process.communicate("\n")[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert sorted(path.name for path in empty_home.iterdir()) == ["mlflow.db"]


def test_kill_in_the_first_use_leaves_a_store_that_opens(empty_home: Path) -> None:
    process = _start(PREPARE)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    process.stdin.write("\n")
    process.stdin.flush()
    while not (empty_home / ".mlflow.db.new").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (empty_home / "mlflow.db").exists()
    assert connect().search_experiments()
    assert sorted(path.name for path in empty_home.iterdir()) == ["mlflow.db"]


def test_store_that_mlflow_left_half_created_is_replaced(empty_home: Path) -> None:
    _leave_half(empty_home)
    assert connect().search_experiments()


def test_store_that_is_being_created_is_waited_for(empty_home: Path, empty_database: Path) -> None:
    database = _leave_half(empty_home, seconds=0)
    before = database.stat().st_ino
    preparing = threading.Thread(target=prepare_database, args=(database,))
    preparing.start()
    time.sleep(1)
    assert database.stat().st_ino == before
    shutil.copyfile(empty_database, database)
    preparing.join(timeout=5)
    assert not preparing.is_alive()
    assert database.stat().st_ino == before


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO experiments (name) VALUES ('mine')",
        "DROP TABLE experiments",
        "INSERT INTO tags VALUES (1, 2, 3)",
    ],
)
def test_unfinished_store_that_holds_anything_is_not_touched(empty_home: Path, statement: str) -> None:
    database = _leave_half(empty_home)
    with sqlite3.connect(database) as connection:
        connection.execute(statement)
    before = _tables(database)
    prepare_database(database)
    assert _tables(database) == before


def test_file_that_is_no_database_is_not_touched(empty_home: Path) -> None:
    (empty_home / "mlflow.db").write_text("mine\n" * 100)
    prepare_database(empty_home / "mlflow.db")
    assert (empty_home / "mlflow.db").read_text() == "mine\n" * 100
