"""Families that grow without a registry, and are registered later."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from warm import run_warm

from lineage.registry.care.doctor import examine
from lineage.registry.family.lookup import read_family

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def offline(home: Path, tiny: Callable[..., list[str]], free_port: Callable[[], int]) -> Run:
    """Function that runs ``lineage grow digits --offline`` while the registry is a server that is down."""
    dead = f"http://127.0.0.1:{free_port()}"

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["-m", "lineage", "grow", "digits", "--offline", *tiny(), *arguments]
        return run_warm(command, home, os.environ | {"MLFLOW_TRACKING_URI": dead})

    return run


def test_family_grown_offline_is_registered_in_order_and_once(
    home: Path, offline: Run, run_lineage: Run, tiny: Callable[..., list[str]]
) -> None:
    assert run_lineage("grow", "digits", "--generations", "0", *tiny()).returncode == 0
    grown = offline("--generations", "1")
    assert grown.returncode == 0, grown.stderr
    assert "wait in the outbox; 'lineage sync' registers them." in grown.stdout
    assert [version.generation for version in read_family("digits")] == [0]

    synced = run_lineage("sync", "--json")
    assert synced.returncode == 0, synced.stderr
    (family,) = json.loads(synced.stdout)["families"]
    assert (family["added"], family["held"]) == (["digits/2"], 1)
    patriarch, student = read_family("digits")
    assert student.teacher == patriarch.id
    assert student.teacher_model_id == patriarch.model_id
    assert examine("digits", lambda _: False).findings == ()
    again = run_lineage("grow", "digits", "--generations", "1", *tiny())
    assert "All generations were registered already; nothing was trained." in again.stdout
    assert run_lineage("sync").stdout == "Nothing waits in the outbox.\n"
    assert not (home / ".lineage" / "outbox").exists()
