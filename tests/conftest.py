"""Fixtures that many tests use: stores of every kind, and a family small enough to grow in a second."""

import gc
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import urllib3.util.connection
from large import multiply_family
from sqlalchemy import create_engine, text
from warm import WarmProcess, run_ranks, run_warm

if TYPE_CHECKING:
    from lineage.registry.family.family import Version

os.environ["TERM"] = "xterm-256color"  # output must not depend on the terminal that tests run in
os.environ.pop("COLUMNS", None)  # for the same reason; pytest-xdist sets it
# A shell's background jobs ignore Ctrl-C, those of nohup a closed terminal, and so would the processes that
# tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# On a busy machine, threads of tiny networks wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor may they find folders that the person who runs them has named; fixtures of stores give one of their own
os.environ["XDG_STATE_HOME"] = os.devnull

# MLflow looks for this module of Databricks at each request, and Python remembers no search that failed
sys.modules.setdefault("dbruntime", None)  # type: ignore[arg-type]

# Stores of tests commit thousands of times, for which a disk takes milliseconds and memory none
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collections, which walk a million objects otherwise."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Registry:
    """An MLflow store that the test's process uses.

    Attributes:
        uri: Tracking URI, as in ``MLFLOW_TRACKING_URI``.
        artifacts: Folder that holds the artifacts.
        log: Log of the server's requests; None if there is no server.
    """

    uri: str
    artifacts: Path
    log: Path | None = None

    def weights_file(self, version: "Version") -> Path:
        """Return the file of the weights of ``version``."""
        return next(self.artifacts.rglob(f"{version.model_id}/**/weights.safetensors"))

    def requests_during(self, call: Callable[[], object]) -> list[str]:
        """Return the server's requests while ``call`` ran, such as ``GET /api/2.0/mlflow/runs/get?…``."""
        assert self.log is not None
        before = len(self.log.read_text().splitlines())
        call()
        time.sleep(0.1)  # the server writes after it answers
        return [line for line in self.log.read_text().splitlines()[before:] if "/api/" in line]


@pytest.fixture(autouse=True)
def forget_the_experiment() -> Iterator[None]:
    """Reset the experiment that MLflow keeps for this process and its children, whatever the store."""
    yield
    fluent = sys.modules.get("mlflow.tracking.fluent")
    if fluent is not None:
        fluent._active_experiment_id = None  # type: ignore[attr-defined]
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with all its tables; creating one takes seconds, copying none."""
    folder = tmp_path_factory.mktemp("database")
    code = "from mlflow import MlflowClient; MlflowClient().search_experiments()"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder / "mlflow.db"


@pytest.fixture
def home(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary working directory with an empty store, which is MLflow's default there."""
    _move_to(tmp_path, empty_database, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def module_home(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ``home`` that a module's tests share, for a family that they only read."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        _move_to(folder, empty_database, patch)
        yield folder


@pytest.fixture
def run_lineage(home: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Function that runs ``lineage`` in a process of its own in ``home``."""

    def run(*arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        return run_warm(["-m", "lineage", *arguments], home, timeout=timeout)

    return run


@pytest.fixture
def run_on_two(home: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Function that runs Python with some arguments on two processes of this CPU, in ``home``."""

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return run_ranks(arguments, home, os.environ | {"ACCELERATE_USE_CPU": "true"} | environment)

    return run


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    """Overrides of the shipped recipe ``digits`` with which a generation takes half a second."""
    return (
        "network.width=4",
        "training.epochs=2",
        "data.train_samples=400",
        "training.warmup_epochs=0",
    )


@pytest.fixture(scope="session")
def tiny(tiny_settings: tuple[str, ...]) -> Callable[..., list[str]]:
    """Function that returns ``tiny_settings`` and further settings as ``--set`` options."""

    def options(*more: str) -> list[str]:
        return [word for setting in (*tiny_settings, *more) for word in ("--set", setting)]

    return options


@contextmanager
def _serving(
    command: list[str], folder: Path, health: str, variables: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Run ``python *command`` during the block; yield its log file once ``health`` answers."""
    log = folder / "server.log"
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # MLflow calls uvicorn
    }
    environment |= variables or {}
    with log.open("w") as output:
        process = WarmProcess(command, folder, environment, output, subprocess.STDOUT, start_new_session=True)
    try:
        _await(health, process, log)
        yield log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(health: str, process: WarmProcess, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(health, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    pytest.fail(f"The server does not answer: {log.read_text()}")


@pytest.fixture(scope="session")
def count_calls() -> Callable[[Callable[[], object]], int]:
    """Function that returns how many functions, of Python and of C, a call calls: work, on any machine."""

    def count(call: Callable[[], object]) -> int:
        calls = 0

        def profile(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            call()
        finally:
            sys.setprofile(before)
        return calls

    return count


@pytest.fixture
def connection_attempts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The addresses that this process tries to reach over HTTP, each as often as it is tried."""
    attempts: list[object] = []
    connect = urllib3.util.connection.create_connection

    def recorded(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        attempts.append(address)
        return connect(address, *arguments, **options)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", recorded)
    return attempts


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Function that returns a free port."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Path]]:
    """Context manager that runs a server, a module or script of Python, until its address answers."""
    return _serving


@contextmanager
def _mlflow_server(backend: str, folder: Path, port: int) -> Iterator[Registry]:
    """Run an ``mlflow server`` over ``backend`` that proxies artifacts, which are in ``folder``."""
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", backend]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    uri = f"http://127.0.0.1:{port}"
    with _serving(command, folder, f"{uri}/health") as log:
        yield Registry(uri, folder / "artifacts", log)


@pytest.fixture(scope="session")
def server(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Registry]:
    """An MLflow server over sqlite."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with _mlflow_server(f"sqlite:///{folder / 'mlflow.db'}", folder, free_port()) as registry:
        yield registry


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of an empty database in a temporary PostgreSQL cluster.

    Debian's server refuses to run as root, so an unprivileged user runs it then. It listens on a socket in a
    folder that only that user can open.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[4]))
    if not found:
        pytest.skip("PostgreSQL is not installed: 'apt-get install postgresql'.")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed: 'pip install psycopg2-binary'.")
    bin_folder = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="lineage-pg-"))  # a socket's path must be short
    user = _unprivileged_user()
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c shared_buffers=32MB -c max_connections=300"
    start = ["pg_ctl", "start", "--wait", "-D", str(data), "-l", str(folder / "log"), "-o", options]
    stop = ["pg_ctl", "stop", "--wait", "-D", str(data), "-m", "immediate"]

    def run(program: str, *arguments: str) -> None:
        command = [str(bin_folder / program), *arguments]
        subprocess.run(command, cwd=folder, user=user, check=True, stdout=subprocess.DEVNULL)

    run("initdb", "-D", str(data), "-U", "lineage", "--auth=trust", "--no-sync", "--encoding=UTF8")
    try:
        run(*start)
        yield f"postgresql+psycopg2://lineage@/postgres?host={folder}"
    finally:
        run(*stop)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def study_database(postgres: str) -> str:
    """The URI of a second database in the cluster: MLflow and Optuna cannot share one."""
    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE studies"))
    engine.dispose()
    return postgres.replace("/postgres?", "/studies?")


def _unprivileged_user() -> str | None:
    """Return the user that runs PostgreSQL in place of root; None for the user of the tests."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"


@pytest.fixture(scope="session")
def postgres_server(
    postgres: str, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Registry]:
    """An MLflow server over PostgreSQL, as a team has it."""
    with _mlflow_server(postgres, tmp_path_factory.mktemp("postgres"), free_port()) as registry:
        yield registry


@pytest.fixture(scope="session")
def multiply() -> Callable[[str, str, int], None]:
    """Function that enlarges a family in an sqlite store by copies of its second version."""
    return multiply_family


@pytest.fixture
def http_registry(server: Registry, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The server as the current store; it also holds other tests' models."""
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
    """The sqlite store as the current one; it also holds other tests' models."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store.uri)
    return sqlite_store


@pytest.fixture
def postgres_registry(postgres_server: Registry, home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The server over PostgreSQL as the current store; it also holds other tests' models."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres_server.uri)
    return postgres_server


_STORES = ["sqlite", pytest.param("http", marks=pytest.mark.slow), "postgres"]
"""sqlite, and a server over PostgreSQL; a server over sqlite combines what those two show, so it is slow."""

_ON_A_SERVER = {"test_adopt.py", "test_register.py", "test_remove_in_progress.py"}
"""Modules whose tests of a server over PostgreSQL are a sample; those of other modules are slow."""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs again on a server as slow, but for the sample."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        runs_again = "postgres" in (params.get("registry"), params.get("module_registry"))
        if runs_again and item.path.name not in _ON_A_SERVER:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=_STORES)
def registry(request: pytest.FixtureRequest) -> Registry:
    """Each of the three stores, in turn."""
    found: Registry = request.getfixturevalue(f"{request.param}_registry")
    return found


@pytest.fixture(scope="module", params=_STORES)
def module_registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """Each of the three stores, in turn, for families that a module's tests share."""
    stores = {"sqlite": "sqlite_store", "http": "server", "postgres": "postgres_server"}
    found: Registry = request.getfixturevalue(stores[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("home"))
        patch.setenv("MLFLOW_TRACKING_URI", found.uri)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.setenv("XDG_STATE_HOME", f"{Path.cwd()}-state")
        patch.delenv("LINEAGE_HOME", raising=False)
        yield found


def _move_to(folder: Path, database: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.copy(database, folder / "mlflow.db")
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    patch.setenv("XDG_STATE_HOME", f"{folder}-state")
    patch.delenv("LINEAGE_HOME", raising=False)
