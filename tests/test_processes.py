"""Several processes grow one family: who speaks to the registry, and what happens when one of them dies."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lineage.registry.families import read_family
from lineage.training.devices import lost_processes_told

pytestmark = pytest.mark.slow

Ranks = list["subprocess.Popen[str]"]
Start = Callable[..., Ranks]


@pytest.fixture
def silent_store() -> Iterator[socket.socket]:
    """A port that remembers who knocks and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
def start(
    home: Path, tiny: Callable[..., list[str]], free_port: Callable[[], int], silent_store: socket.socket
) -> Iterator[Start]:
    """Starts two ranks of ``lineage grow digits``; to the second, the store is the silent one."""
    started: Ranks = []

    def start_ranks(*arguments: str) -> Ranks:
        common = os.environ | {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        common |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        stores = (os.environ["MLFLOW_TRACKING_URI"], f"http://127.0.0.1:{silent_store.getsockname()[1]}")
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "lineage", "grow", "digits", *tiny("training.epochs=6"), *arguments],
                cwd=home,
                env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MLFLOW_TRACKING_URI": store},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, store in enumerate(stores)
        ]
        started.extend(ranks)
        return ranks

    yield start_ranks
    for rank in started:
        rank.kill()
        rank.communicate()


def finish(ranks: Ranks) -> str:
    """Wait for ranks that must do well; what the first one told."""
    told = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    return told[0]


def test_first_process_alone_speaks_to_the_registry(start: Start, silent_store: socket.socket) -> None:
    finish(start("--generations", "1"))
    assert [version.teacher for version in read_family("digits")] == [None, "digits/1"]
    with pytest.raises(BlockingIOError):  # nobody has knocked
        silent_store.accept()


def test_death_of_a_process_is_told_in_a_sentence_and_the_run_continues(start: Start) -> None:
    first, second = start("--generations", "0")
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("generation 0: epoch 2/"):
            break
    second.kill()
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 1
    assert errors.splitlines()[-1] == (
        "Error: All 2 processes must answer each other, but one has died or does not answer; see what it said"
        " last, and run the same command again to continue."
    )
    assert "Traceback" not in errors
    resumed = finish(start("--generations", "0"))
    assert "generation 0: resumed after epoch" in resumed
    finish(start("--generations", "0", "--name", "whole"))
    (version,), (same,) = read_family("digits"), read_family("whole")
    assert version.weights_sha256 == same.weights_sha256


def test_error_of_another_sort_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), lost_processes_told():
        raise RuntimeError("shapes do not fit")
