"""A server that a test may kill and start again."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest


@pytest.fixture
def own_server(
    home: Path,
    free_port: Callable[[], int],
    serving: Callable[..., AbstractContextManager[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], AbstractContextManager[Path]]:
    """Function that runs an MLflow server of one address and database, as often as it is called."""
    port, folder = free_port(), home / "server"
    folder.mkdir()
    shutil.move(home / "mlflow.db", folder / "mlflow.db")
    command = ["-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    return lambda: serving(command, folder, f"http://127.0.0.1:{port}/health")
