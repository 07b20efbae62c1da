import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests
from warm import WarmProcess

from lineage.errors import RegistryError
from lineage.registry.store import server


@contextmanager
def ui(home: Path, *options: str) -> Iterator[WarmProcess]:
    """The command in a process of its own."""
    with (home / "ui.log").open("w") as log:
        process = WarmProcess(["-m", "lineage", "ui", *options], home, stdout=subprocess.PIPE, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.communicate()


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


@pytest.mark.parametrize("status", [503, 404, 302])
def test_server_that_answers_wrongly_is_polled_with_pauses(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    polls = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            polls.append(self.path)
            self.send_response(status)
            self.send_header("Location", f"/other/{len(polls)}")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    monkeypatch.setattr(server, "_START_TIMEOUT", 1)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with HTTPServer(("127.0.0.1", 0), Handler) as wrong, subprocess.Popen(sleep) as process:
        Thread(target=wrong.serve_forever, daemon=True).start()
        try:
            with pytest.raises(RegistryError, match=r"has not answered on .* within 1 seconds"):
                server._await_answer(f"http://127.0.0.1:{wrong.server_port}", process)
        finally:
            process.kill()
            wrong.shutdown()
    assert 1 <= polls.count("/lineage") <= 6  # one every .2 of a second


def test_server_that_ends_while_it_starts_is_said_to() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        process.wait()
        with pytest.raises(RegistryError, match="but exited with code 3"):
            server._await_answer("http://127.0.0.1:9", process)


def test_server_without_the_page_is_refused(
    http_registry: object, run_lineage: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    ended = run_lineage("ui")
    assert ended.returncode == 2
    assert "must run with '--app-name lineage' to show families, but answers 404" in ended.stderr
