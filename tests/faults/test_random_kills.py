"""Sixty kills at random moments, of command and MLflow server, leave what an undisturbed run does."""

import os
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from warm import WarmProcess

from lineage.registry.care.doctor import examine
from lineage.registry.family.lookup import read_family

KILLS = 60
SETTINGS = ("training.epochs=8", "succession.generations=2")


def grow(home: Path, tiny: Callable[..., list[str]], seed: int, name: str) -> WarmProcess:
    command = ["grow", "digits", "--name", name, "--seed", str(seed), *tiny(*SETTINGS)]
    return WarmProcess(["-m", "lineage", *command], home, os.environ | {"LINEAGE_HOME": str(home / name)})


def remembered(name: str) -> list[Any]:
    """Return what a family must be: weights, edges, and every metric of every epoch that is no speed."""
    client = MlflowClient()
    found = []
    for version in sorted(read_family(name), key=lambda one: (one.seed, one.generation)):
        epochs = {
            metric: [(point.step, point.value) for point in client.get_metric_history(version.run_id, metric)]
            for metric in ("train_loss", "validation_accuracy", "lr")
        }
        teacher = None if version.teacher is None else client.get_model_version(*version.teacher.split("/"))
        taught = None if teacher is None else teacher.tags["lineage.weights_sha256"]
        found.append((version.seed, version.generation, version.weights_sha256, taught, epochs))
    return found


@pytest.mark.slow
def test_sixty_kills_of_command_and_server_lose_and_repeat_nothing(
    home: Path, own_server: Callable[[], AbstractContextManager[Path]], tiny: Callable[..., list[str]]
) -> None:
    moments = random.Random(7)
    kills, seed = 0, 0
    with ExitStack() as stack:
        server = stack.enter_context(ExitStack())
        server.enter_context(own_server())
        while kills < KILLS:
            process = grow(home, tiny, seed, "killed")
            try:
                assert process.wait(timeout=moments.uniform(2, 9)) == 0
                seed += 1
                continue
            except subprocess.TimeoutExpired:
                kills += 1
            if moments.random() < 0.3:
                server.close()
                time.sleep(moments.uniform(0, 2))
                if moments.random() < 0.5:
                    process.kill()
                server.enter_context(own_server())
                process.wait(timeout=120)
            else:
                process.kill()
                process.wait()
        for last in range(seed + 1):
            assert grow(home, tiny, last, "killed").wait() == 0
            assert grow(home, tiny, last, "whole").wait() == 0
        assert remembered("killed") == remembered("whole")
        left = examine("killed", lambda _: False, fix=True, kill_runs=True).findings
        assert left == ()
