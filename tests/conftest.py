"""Parts that many tests use: an empty store, and a family small enough to grow in a second."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # on a busy machine, threads of tiny networks wait for each other


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with all its tables; creating one takes seconds, copying none."""
    folder = tmp_path_factory.mktemp("database")
    code = "from mlflow import MlflowClient; MlflowClient().search_experiments()"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder / "mlflow.db"


@pytest.fixture
def home(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own with an empty store, which is MLflow's default there."""
    _move_to(tmp_path, empty_database, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def module_home(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ``home`` that a module's tests share, for a family that they only look at."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        _move_to(folder, empty_database, patch)
        yield folder


@pytest.fixture
def run_lineage(home: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs ``lineage`` as a user would, in a process of its own in ``home``."""

    def run(*arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "lineage", *arguments]
        return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=timeout, check=False)

    return run


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    """Overrides that make the shipped recipe ``digits`` a matter of half a second a generation."""
    return (
        "network.width=4",
        "training.epochs=2",
        "data.train_samples=400",
        "training.warmup_epochs=0",
    )


@pytest.fixture(scope="session")
def tiny(tiny_settings: tuple[str, ...]) -> Callable[..., list[str]]:
    """Gives ``--set`` options of ``tiny_settings`` and of further settings."""

    def options(*more: str) -> list[str]:
        return [word for setting in (*tiny_settings, *more) for word in ("--set", setting)]

    return options


def _move_to(folder: Path, database: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.copy(database, folder / "mlflow.db")
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    patch.delenv("LINEAGE_HOME", raising=False)
