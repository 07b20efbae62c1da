"""An MLflow server that dies while a generation trains, and one that comes back."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from warm import WarmProcess

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
