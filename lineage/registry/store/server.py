"""MLflow's server with the page of families, started on the store in use."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import requests

from lineage.errors import RegistryError, UsageError
from lineage.registry.store.connection import connect, safe_uri

APP_NAME = "lineage"
PAGE_PATH = "/lineage"

_PATIENCE = 120  # seconds until the server answers; MLflow imports much
_LIGHT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no jobs are needed to browse


def serve(host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the store in use until the user ends it; a store that is a server is only announced.

    Args:
        host: To listen on.
        port: To listen on; 0 takes a free one.
        announce: Is told the address of the page once it answers.

    Raises:
        UsageError: If nobody can listen there, or the server in use does not have the page.
        RegistryError: If the store cannot be reached, or the server does not start.
    """
    connect()
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        announce(_page_of(uri))
        return
    port = _free(host, port)
    address = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
    with _running(uri, host, port) as process:
        _await(address, process)
        announce(address + PAGE_PATH)
        try:
            process.wait()
        except KeyboardInterrupt:
            return
    raise RegistryError(
        f"The server must run until it is ended, but left with exit code {process.returncode};"
        " its output says why."
    )


def _page_of(uri: str) -> str:
    """The page of a server that runs already."""
    page = uri.rstrip("/") + PAGE_PATH
    try:
        status = requests.get(page, timeout=10).status_code
    except requests.RequestException as error:
        raise RegistryError(f"The store {safe_uri()} must be reachable, but is not: {error}.") from error
    if status in (200, 401):  # a page behind a login is there
        return page
    raise UsageError(
        f"The server {safe_uri()} must run with '--app-name {APP_NAME}' to show families, but answers"
        f" {status} for {PAGE_PATH}; start it so where it runs."
    )


def _free(host: str, port: int) -> int:
    """The port, if somebody can listen on it."""
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
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", APP_NAME, "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    # MLflow looks for its server's program on the path, which a virtual environment need not be on
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = _LIGHT | dict(os.environ) | {"PATH": path, "MLFLOW_BACKEND_STORE_URI": uri}
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _await(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(address + PAGE_PATH, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise RegistryError(
        f"The server must answer on {address} within {_PATIENCE} seconds, but does not; its output says why."
    )
