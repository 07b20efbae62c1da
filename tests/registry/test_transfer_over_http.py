import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineage.registry.family.family import Version
from lineage.registry.store.transfers import read_transfers


@pytest.mark.slow
def test_second_machine_transfers_with_the_tracking_uri_alone(
    http_registry: Any,
    add_version: Callable[..., Version],
    run_lineage: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patriarch = add_version()
    student = add_version(patriarch)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("HOME", str(empty))
    arguments = ("--to", "digits", "--set", "data.train_samples=200", "--ancestors", "1", "--json")
    outcome = run_lineage("transfer", student.uri, *arguments)
    assert outcome.returncode == 0, outcome.stderr
    results = json.loads(outcome.stdout)
    assert [result["uri"] for result in results] == [patriarch.uri, student.uri]
    assert results[0]["notes"] == ["Grey is repeated to 3 channels."]
    assert [result["run_id"] for result in results][1] == read_transfers(student)[-1].run_id
