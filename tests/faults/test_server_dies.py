"""An MLflow server that dies while a generation trains, and one that comes back."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from warm import WarmProcess

from lineage.display.progress import SilentReporter
from lineage.growing.grow import grow
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_family

EPOCHS = 40


@pytest.fixture
def growing(home: Path, tiny: Callable[..., list[str]]) -> Iterator[Callable[[], WarmProcess]]:
    """Function that starts ``lineage grow`` of one patriarch."""
    started: list[WarmProcess] = []

    def start() -> WarmProcess:
        options = tiny(f"training.epochs={EPOCHS}", "succession.generations=0")
        process = WarmProcess(["-m", "lineage", "grow", "digits", *options], home, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def await_line(process: WarmProcess, text: str) -> list[str]:
    """Read standard error until a line holds ``text``; return what was read."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"'{text}' was not said: {''.join(lines)}")


def test_training_goes_on_without_the_server_and_registers_when_it_is_back(
    own_server: Callable[[], Any], growing: Callable[[], WarmProcess]
) -> None:
    with own_server():
        process = growing()
        await_line(process, "generation 0: epoch 3/")
    said = await_line(process, "Training goes on, and metrics wait in the checkpoint.")
    assert "must answer, but refuses connections; start it again" in said[-1]
    await_line(process, f"generation 0: epoch {EPOCHS}/")
    await_line(process, "Waiting for it")
    with own_server():
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        (version,) = read_family("digits")
        points = MlflowClient().get_metric_history(version.run_id, "train_loss")
        assert [point.step for point in points] == list(range(1, EPOCHS + 1))


class _Outage(SilentReporter):
    """Stops the server after the patriarch, and starts it again once it is said to be waited for."""

    def __init__(self, server: Callable[[], AbstractContextManager[Path]]) -> None:
        self.notices: list[str] = []
        self._server = server
        self.running = ExitStack()
        self.running.enter_context(server())

    def completed(self, version: Version) -> None:
        if version.generation == 0:
            self.running.close()

    def notice(self, line: str) -> None:
        self.notices.append(line)
        if "Waiting for it" in line:
            self.running.enter_context(self._server())


@pytest.mark.slow
def test_server_that_dies_between_two_generations_is_waited_for(
    own_server: Callable[[], AbstractContextManager[Path]], tiny: Callable[..., list[str]]
) -> None:
    outage = _Outage(own_server)
    overrides = [word for word in tiny() if word != "--set"]
    with outage.running:
        (grown,) = grow("digits", generations=1, overrides=overrides, reporter=outage)
        assert [version.id for version in read_family("digits")] == [version.id for version in grown.versions]
    assert len(grown.versions) == 2
    (notice,) = outage.notices
    assert "refuses connections; start it again" in notice
    assert notice.endswith("Waiting for it; Ctrl-C leaves, and the same command continues here.")


@pytest.mark.slow
def test_generation_that_waits_for_the_server_can_be_left_and_continued(
    own_server: Callable[[], Any], growing: Callable[[], WarmProcess]
) -> None:
    with own_server():
        process = growing()
        await_line(process, "generation 0: epoch 3/")
    await_line(process, "Waiting for it")
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    with own_server():
        again = growing()
        _, errors = again.communicate(timeout=120)
        assert again.returncode == 0, errors
        assert "generation 0: epoch" not in errors  # none is trained again
        (version,) = read_family("digits")
        assert MlflowClient().get_run(version.run_id).info.status == "FINISHED"
