"""Processes of Python that start with the libraries imported: forks of one server per test session.

A fresh process imports torch and MLflow for two to four seconds before it does anything. Where start-up is
not what a test is about, the test starts its process here: one with its own memory, signals, environment,
working directory and streams, which runs a module, a script or code as ``python`` would.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import IO

import pytest


class WarmProcess:
    """A running process with what tests use of ``subprocess.Popen`` with ``text=True``.

    Attributes:
        pid: Number of the process.
        stdout: What it prints, where that was asked for by ``PIPE``.
        stderr: Its standard error, likewise.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[str] = subprocess.DEVNULL,
        stderr: int | IO[str] = subprocess.DEVNULL,
        start_new_session: bool = False,
    ) -> None:
        """Start ``python *arguments``.

        Args:
            arguments: ``-m MODULE …``, ``-c CODE …`` or ``SCRIPT …``.
            cwd: Working directory.
            env: Environment; this process's by default.
            stdout: Open file, or ``subprocess.PIPE`` or ``subprocess.DEVNULL``.
            stderr: The same, or ``subprocess.STDOUT``.
            start_new_session: Whether to lead a session and a process group of its own.
        """
        self.stdout, out = _stream(stdout)
        self.stderr, error = (None, os.dup(out)) if stderr == subprocess.STDOUT else _stream(stderr)
        streams = Connection(out, readable=False), Connection(error, readable=False)
        environment = dict(os.environ if env is None else env)
        self._process = _server().Process(
            target=_become, args=(list(arguments), cwd, environment, streams, start_new_session)
        )
        self._process.start()
        for stream in streams:
            stream.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return ``returncode``."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return ``returncode``."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their end, wait for the process, and return what was read."""
        texts = ["", ""]

        def read(index: int, stream: IO[str]) -> None:
            with stream:
                texts[index] = stream.read()

        pipes = [(i, stream) for i, stream in enumerate((self.stdout, self.stderr)) if stream is not None]
        readers = [
            threading.Thread(target=read, args=pipe, daemon=True) for pipe in pipes if not pipe[1].closed
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def run_warm(
    arguments: Sequence[str],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
    stderr: int = subprocess.PIPE,
) -> "subprocess.CompletedProcess[str]":
    """Run ``python *arguments`` to its end, and return its exit code and what it said."""
    process = WarmProcess(arguments, cwd, env, subprocess.PIPE, stderr)
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(list(arguments), process.wait(), output, errors)


def run_ranks(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 120
) -> "subprocess.CompletedProcess[str]":
    """Run ``python *arguments`` on two processes of this CPU, with the variables that a launcher gives them.

    Returns:
        The first exit code that is not 0, and what both said, one after the other.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        WarmProcess(
            arguments,
            cwd,
            {**env, **common, "RANK": rank, "LOCAL_RANK": rank},
            subprocess.PIPE,
            subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [rank.communicate(timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    code = next(filter(None, (rank.wait() for rank in ranks)), 0)
    output, errors = ("".join(texts) for texts in zip(*said, strict=True))
    return subprocess.CompletedProcess(list(arguments), code, output, errors)


def _server() -> ForkServerContext:
    """Return the context of the server, which starts with the first process and ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_libraries"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # which MLflow reads when it is imported
        ensure_running()
    return context


def _stream(wanted: int | IO[str]) -> tuple[IO[str] | None, int]:
    """Return what this process reads, if anything, and a descriptor for the other process to write."""
    if wanted == subprocess.PIPE:
        ours, theirs = os.pipe()
        return open(ours, encoding="utf-8"), theirs  # noqa: PTH123 - the reader closes it
    if wanted == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    assert not isinstance(wanted, int)
    return None, os.dup(wanted.fileno())


def _become(
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    streams: tuple[Connection, Connection],
    start_new_session: bool,
) -> None:
    """Turn this fork into what ``python *arguments`` is after its imports, and leave as that does."""
    if start_new_session:
        os.setsid()
    multiprocessing.set_start_method(None, force=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), descriptor)
        stream.close()
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    first, *rest = arguments
    try:
        if first == "-m":
            sys.path.insert(0, str(folder))
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *rest[1:]]
            exec(rest[0], {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(first).parent))
            sys.argv = arguments
            runpy.run_path(first, run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
