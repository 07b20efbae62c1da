import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests


@contextmanager
def ui(home: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "lineage", "ui", *options]
    with (
        (home / "ui.log").open("w") as log,
        subprocess.Popen(command, cwd=home, text=True, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def test_ui_serves_the_store_in_use_until_it_is_ended(home: Path) -> None:
    with ui(home, "--port", "0") as process:
        assert process.stdout is not None
        word, address = process.stdout.readline().split()
        assert word == "Families:"
        assert address.endswith("/lineage")
        data = address.removesuffix("/lineage") + "/ajax-api/3.0/lineage/families"
        assert requests.get(data, timeout=30).json() == {"families": []}
        process.terminate()  # as Ctrl-C does, which a process in the background need not hear
        assert process.wait(60) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=5)


def test_port_that_is_taken_is_refused(
    run_lineage: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_lineage("ui", "--port", str(port))
    assert ended.returncode == 2
    assert f"must be free to listen on, but 127.0.0.1:{port} is not" in ended.stderr


def test_server_without_the_page_is_refused(
    http_registry: object, run_lineage: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    ended = run_lineage("ui")
    assert ended.returncode == 2
    assert "must run with '--app-name lineage' to show families, but answers 404" in ended.stderr
