"""Registries to test against: an sqlite file in this process, and a server over HTTP."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from lineage.registry.ancestry import Version
from lineage.registry.flavor import LoadedModel, weights_digest
from lineage.registry.runs import GenerationRun, start_run
from lineage.registry.store import ensure_experiment
from lineage.registry.versions import Birth, register
from lineage.vision.datasets import Description
from lineage.vision.networks import build_network

TILES = Description(
    name="tiles",
    class_names=("red", "green", "blue"),
    superclasses=None,
    mean=(0.25, 0.5, 0.75),
    std=(0.125, 0.25, 0.5),
    input_shape=(3, 8, 8),
    digest="d" * 64,
)


@dataclass(frozen=True)
class Registry:
    """A store that the test's process speaks to.

    Attributes:
        uri: As in ``MLFLOW_TRACKING_URI``.
        artifacts: Folder that the artifacts lie under.
        log: Of a server's requests, or None where there is no server.
    """

    uri: str
    artifacts: Path
    log: Path | None = None

    def weights_file(self, version: Version) -> Path:
        """Where the weights of ``version`` lie."""
        return next(self.artifacts.rglob(f"{version.model_id}/**/weights.safetensors"))

    def requests_during(self, call: Callable[[], object]) -> list[str]:
        """What the server was asked while ``call`` ran, such as ``GET /api/2.0/mlflow/runs/get?…``."""
        assert self.log is not None
        before = len(self.log.read_text().splitlines())
        call()
        time.sleep(0.1)  # the server writes after it answers
        return [line for line in self.log.read_text().splitlines()[before:] if "/api/" in line]


@contextmanager
def _serving(command: list[str], folder: Path, health: str) -> Iterator[Path]:
    """A process of its own while the block runs; the file it logs to, once ``health`` answers."""
    log = folder / "server.log"
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # MLflow calls uvicorn
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await(health, process, log)
        yield log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(health: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(health, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    pytest.fail(f"The server does not answer: {log.read_text()}")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def serving() -> Callable[[list[str], Path, str], AbstractContextManager[Path]]:
    """Runs a server's command, in a folder, until an address answers and as long as a block lasts."""
    return _serving


@pytest.fixture(scope="session")
def server(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Registry]:
    """An ``mlflow server`` that proxies artifacts."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    uri = f"http://127.0.0.1:{port}"
    with _serving(command, folder, f"{uri}/health") as log:
        yield Registry(uri, folder / "artifacts", log)


@pytest.fixture
def http_registry(server: Registry, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The server, in use; others' models stand in it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return server


@pytest.fixture(scope="session")
def sqlite_store(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """An sqlite store; MLflow takes half a second to open one, so tests share it."""
    folder = tmp_path_factory.mktemp("sqlite")
    shutil.copy(empty_database, folder / "mlflow.db")
    return Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlruns")


@pytest.fixture
def sqlite_registry(sqlite_store: Registry, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The sqlite store, in use; others' models stand in it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store.uri)
    return sqlite_store


@pytest.fixture(params=["sqlite", "http"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """Each of the two, in turn."""
    found: Registry = request.getfixturevalue(f"{request.param}_registry")
    return found


@pytest.fixture
def name() -> str:
    """Of a registered model that no other test uses."""
    return f"family-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def tiles() -> Description:
    """Three classes of 3×8×8 images, normalised by powers of two."""
    return TILES


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """An untrained network with running statistics that are not the initial ones."""
    torch.manual_seed(0)
    options = {"width": 4}
    network = build_network("resnet8", TILES.num_classes, TILES.input_shape, options)
    network(torch.randn(64, *TILES.input_shape))
    network.to(memory_format=torch.channels_last).eval()
    return LoadedModel(network, "resnet8", options, TILES, '{"model": {"name": "tiles"}}')


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """A batch of pixel values in [0, 1], shape (5, 3, 8, 8)."""
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def open_run(name: str) -> Callable[..., GenerationRun]:
    """Starts runs in the experiment ``name``."""

    def start(
        teacher: Version | None = None, experiment: str = name, data: Description = TILES
    ) -> GenerationRun:
        return start_run(
            ensure_experiment(experiment),
            "tiles generation",
            teacher,
            {"key": "k", "generation": "0"},
            '{"recipe": true}',
            {"training.epochs": 2, "network.width": None},
            data,
        )

    return start


@dataclass(frozen=True)
class Logged:
    """A logged model that any number of versions can be registered from."""

    model_id: str
    run: GenerationRun
    sha256: str


@pytest.fixture
def log_one(open_run: Callable[..., GenerationRun], model: LoadedModel) -> Callable[..., Logged]:
    """Logs the model in a run of its own."""

    def log(experiment: str | None = None) -> Logged:
        run = open_run() if experiment is None else open_run(experiment=experiment)
        model_id = run.log_model(model, f"{experiment}-generation-0", {"test_accuracy": 0.5}, 1)
        return Logged(model_id, run, weights_digest(model.network))

    return log


@pytest.fixture(scope="session")
def logged_once() -> dict[str, Logged]:
    """The one model of each store that all generations are registered from, by the store's URI."""
    return {}


@pytest.fixture
def beget(
    name: str, log_one: Callable[..., Logged], logged_once: dict[str, Logged]
) -> Callable[..., Version]:
    """Registers generations under ``name``, from one logged model unless another is given."""

    def register_one(
        teacher: Version | None = None,
        logged: Logged | None = None,
        family: str = name,
        **changes: Any,
    ) -> Version:
        if logged is None:
            store = os.environ["MLFLOW_TRACKING_URI"]
            if store not in logged_once:
                logged_once[store] = log_one()
            logged = logged_once[store]
        birth = Birth(
            generation=0 if teacher is None else teacher.generation + 1,
            teacher=teacher,
            objective="tolerant" if teacher is None else "student",
            seed=3,
            recipe_digest="r" * 64,
            key=uuid.uuid4().hex,
            metrics={"test_accuracy": 0.5},
            weights_sha256=logged.sha256,
        )
        return register(family, replace(birth, **changes), logged.model_id, logged.run.run_id)

    return register_one
