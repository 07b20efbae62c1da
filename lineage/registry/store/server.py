"""``lineage ui``: MLflow's server with the page of families, started on the store in use."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import requests

from lineage.errors import RegistryError, UsageError
from lineage.formats import first_line
from lineage.registry.store.connection import connect, safe_uri, without_passwords

APP_NAME = "lineage"
PAGE_PATH = "/lineage"

_START_TIMEOUT = 120  # seconds; MLflow imports much
_WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # browsing needs no jobs


def serve(host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the store in use until the user ends it; if the store is a server, announce its page alone.

    Args:
        host: Host to listen on.
        port: Port to listen on; 0 takes a free one.
        announce: Callback for the address of the page, called once the page answers.

    Raises:
        UsageError: If the port is not free, or the server in use does not have the page.
        RegistryError: If the store cannot be reached, or the server does not start or stops by itself.
    """
    connect()
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        announce(_page_of(uri))
        return
    port = _free_port(host, port)
    address = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
    with _running(uri, host, port) as process:
        _await_answer(address, process)
        announce(address + PAGE_PATH)
        try:
            process.wait()
        except KeyboardInterrupt:
            return
    raise RegistryError(
        f"The server must run until it is ended, but stopped with exit code {process.returncode}; see its"
        " output for the reason."
    )


def _page_of(uri: str) -> str:
    """Return the address of the page on a server that runs already."""
    page = uri.rstrip("/") + PAGE_PATH
    try:
        status = requests.get(page, timeout=10).status_code
    except requests.RequestException as error:
        raise RegistryError(
            f"The store {safe_uri()} must be reachable, but is not: {without_passwords(first_line(error))};"
            " set MLFLOW_TRACKING_URI to one that is."
        ) from error
    if status in (200, 401):  # 401: the page is there, behind a login
        return page
    raise UsageError(
        f"The server {safe_uri()} must run with '--app-name {APP_NAME}' to show families, but answers"
        f" {status} for {PAGE_PATH}; start it so where it runs."
    )


def _free_port(host: str, port: int) -> int:
    """Return ``port``, or a free one for 0; refuse a port that is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"--host and --port must be free to listen on, but {host}:{port} is not: {error.strerror};"
                " give another --port, or 0 for any."
            ) from error
        return int(probe.getsockname()[1])


@contextmanager
def _running(uri: str, host: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run MLflow's server in a process group of its own, which ends with the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", APP_NAME, "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    # MLflow looks for its server's program on the path, which an environment that is not activated is not on
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = _WITHOUT_JOBS | dict(os.environ) | {"PATH": path, "MLFLOW_BACKEND_STORE_URI": uri}
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _await_answer(address: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the page answers; refuse a server that stops or stays silent."""
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            if requests.get(address + PAGE_PATH, timeout=5).ok:
                return
        time.sleep(0.2)
    if process.poll() is not None:
        found = f"exited with code {process.returncode}"
    else:
        found = f"has not answered on {address + PAGE_PATH} within {_START_TIMEOUT} seconds"
    raise RegistryError(f"The server must start and show the page, but {found}; see its output for why.")
