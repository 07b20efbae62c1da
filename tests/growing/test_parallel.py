"""Successions of several seeds side by side: each in a process of its own, of which any may fail."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import lineage
from lineage.display.progress import SilentReporter
from lineage.growing.parallel import FailedSeedsError, _Listener
from lineage.growing.worker_processes import read_message, send_message
from lineage.recipe import load_recipe
from lineage.registry.family.lookup import read_family

Process = subprocess.CompletedProcess[str]
Options = Callable[..., list[str]]
LONG = "training.epochs=400"


def test_message_is_read_behind_text_and_a_torn_one_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    send_message({"versions": ["digits/1"]})
    line = capsys.readouterr().out.rstrip()
    assert read_message(line) == ("", {"versions": ["digits/1"]})
    assert read_message(f"a warning{line}") == ("a warning", {"versions": ["digits/1"]})
    assert read_message(line[:-2]) == (line[:-2].replace("\x1e", " "), None)
    assert read_message("epoch 1") == ("epoch 1", None)


def test_error_is_the_reason_though_the_process_says_more() -> None:
    reporter = Lines()
    listener = _Listener([load_recipe("digits")], reporter)
    for line in ("Error: one of a library", "Error: The loss must be finite.", "Exception ignored in: it"):
        listener.hear(0, line)
    (outcome,) = listener.outcomes([1], None)
    assert (outcome.lineage, outcome.reason, outcome.exit_code) == (None, "The loss must be finite.", 1)
    assert reporter.lines == ["seed 0: Error: one of a library", "seed 0: Exception ignored in: it"]


class Lines(SilentReporter):
    """Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread here and in the processes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def begin(home: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Function that starts ``lineage grow digits`` on several seeds; none outlives its test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "lineage", "grow", "digits", *arguments]
        process = subprocess.Popen(
            command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _await_epochs(process: "subprocess.Popen[str]", *seeds: int) -> None:
    """Read progress until each of the seeds has trained three epochs, so that checkpoints are there."""
    missing = set(map(str, seeds))
    assert process.stderr is not None
    for line in process.stderr:
        found = re.match(r"seed (\d+): generation 0: epoch 3/", line)
        missing -= {found[1]} if found else set()
        if not missing:
            return
    pytest.fail(f"Seeds {missing} did not train.")


def _workers(process: "subprocess.Popen[str]") -> list[int]:
    """Return the ids of a command's worker processes, in the order in which they were started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in children.split()]


def _weights(name: str) -> dict[tuple[int, int], str]:
    """Return the weights' digests of a family by seed and generation."""
    return {(version.seed, version.generation): version.weights_sha256 for version in read_family(name)}


def test_failed_seed_leaves_the_others_whose_weights_are_those_of_a_seed_alone(
    home: Path, tiny_settings: tuple[str, ...]
) -> None:
    settings = [*tiny_settings, "succession.generations=1"]
    (alone,) = lineage.grow("digits", name="alone", seeds=[4], overrides=settings)
    blocked = home / ".lineage" / alone.versions[0].key
    blocked.write_text("a file where a folder must be")
    reporter = Lines()
    with pytest.raises(FailedSeedsError, match=r"All 2 successions .* 1 failed, of seed 4 \(") as failure:
        lineage.grow("digits", seeds=[3, 4], parallel=2, overrides=settings, reporter=reporter)

    done, failed = failure.value.outcomes
    assert done.lineage is not None
    assert (done.lineage.num_trained, failed.lineage, failed.seed) == (2, None, 4)
    assert failed.reason.startswith("The folder of unfinished generations, .lineage, must be writable")
    assert failure.value.exit_code == failed.exit_code == 2
    assert "seed 3: done" in reporter.lines
    assert f"seed 4: failed: {failed.reason}" in reporter.lines
    assert any(re.match("seed 3: generation 1: epoch 2/2, loss", line) for line in reporter.lines)
    assert {version.seed for version in read_family("digits")} == {3}

    blocked.unlink()
    both = lineage.grow("digits", seeds=[3, 4], overrides=settings)
    assert [(line.seed, line.num_trained) for line in both] == [(3, 0), (4, 2)]
    assert both[0].versions == done.lineage.versions
    lineage.grow("digits", name="alone", seeds=[3, 4], overrides=settings)
    assert _weights("digits") == _weights("alone")


@pytest.mark.slow
def test_killed_process_fails_its_seed_alone_and_the_command_continues_it(
    begin: Callable[..., "subprocess.Popen[str]"], tiny: Options
) -> None:
    arguments = ("--seeds", "0..2", "--parallel", "2", "--generations", "0", "--json", *tiny())
    process = begin(*arguments, "--set", "training.epochs=40")
    _await_epochs(process, 0)
    os.kill(_workers(process)[0], signal.SIGKILL)
    printed, told = process.communicate(timeout=120)
    assert process.returncode == 1
    sentence = "Its process must live until the end, but died of SIGKILL."
    assert f"seed 0: failed: {sentence}" in told
    first, *others = json.loads(printed)
    assert first == {"seed": 0, "error": sentence, "exit_code": 1}
    assert [(one["seed"], one["trained"]) for one in others] == [(1, 1), (2, 1)]

    again = begin(*arguments, "--set", "training.epochs=40")
    printed, told = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert [(one["seed"], one["trained"]) for one in json.loads(printed)] == [(0, 1), (1, 0), (2, 0)]
    assert "seed 0: generation 0: resumed after epoch" in told


@pytest.mark.slow
def test_interrupt_ends_all_processes_and_says_how_to_continue(
    begin: Callable[..., "subprocess.Popen[str]"], tiny: Options
) -> None:
    arguments = ("--seeds", "0..2", "--parallel", "2", *tiny(), "--set", LONG)
    process = begin(*arguments)
    _await_epochs(process, 0, 1)
    workers = _workers(process)
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    command = f"python -m lineage grow digits {' '.join(arguments)}"
    assert told.count("Interrupted") == 1
    assert told.endswith(f"the same command continues from the last complete epoch: {command}\n")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert _statuses() == {"KILLED"}


@pytest.mark.slow
def test_processes_end_when_the_one_that_started_them_is_killed(
    begin: Callable[..., "subprocess.Popen[str]"], tiny: Options
) -> None:
    process = begin("--seeds", "0..1", "--parallel", "2", *tiny(), "--set", LONG)
    _await_epochs(process, 0, 1)
    workers = _workers(process)
    process.kill()
    deadline = time.monotonic() + 60
    while any(_lives(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert _statuses() == {"KILLED"}


def _lives(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _statuses() -> set[Any]:
    client = MlflowClient()
    experiments = [found.experiment_id for found in client.search_experiments()]
    return {run.info.status for run in client.search_runs(experiments)}
