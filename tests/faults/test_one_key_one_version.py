"""A key has one version, from however many processes and folders its generation is grown."""

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from warm import WarmProcess, run_warm

from lineage.data.datasets import DataSpec
from lineage.growing.leases import LeaseLostError, Leases, Work, find_or_lease
from lineage.models.networks import build_network
from lineage.registry.care.doctor import examine
from lineage.registry.family.aliases import promote
from lineage.registry.family.lookup import read_family
from lineage.registry.family.register import NewVersion, register
from lineage.registry.flavor import LoadedModel, log_model
from lineage.registry.store.connection import ensure_experiment
from lineage.registry.store.leases import Lease, read_lease, write_lease
from lineage.registry.store.runs import start_run
from lineage.training.checkpoints import Checkpoint


@pytest.fixture
def name() -> str:
    return f"one-{uuid.uuid4().hex[:8]}"


def work(name: str, folder: Path, key: str = "k" * 64) -> Work:
    """Return work on a key, as a process in ``folder`` has it."""
    return Work(name, key, Checkpoint(folder / key))


def grow_at_once(uri: str, folders: list[Path], arguments: list[str]) -> list[tuple[int | None, str]]:
    """Run ``lineage grow`` in all folders at the same time; return exit codes and what was said."""
    processes = []
    for folder in folders:
        folder.mkdir()
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
        command = ["-m", "lineage", "grow", "digits", *arguments]
        processes.append(WarmProcess(command, folder, environment, stderr=subprocess.PIPE))
    said = [process.communicate(timeout=180)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_four_folders_grow_one_family_once(
    http_registry: Any, tmp_path: Path, name: str, tiny: Callable[..., list[str]]
) -> None:
    folders = [tmp_path / f"folder-{index}" for index in range(4)]
    ends = grow_at_once(http_registry.uri, folders, ["--name", name, "--generations", "1", *tiny()])
    assert [code for code, _ in ends] == [0] * 4, "\n".join(text for _, text in ends)
    family = read_family(name)
    assert [version.generation for version in family] == [0, 1]
    assert len({version.key for version in family}) == 2
    assert examine(name, lambda _key: False).healthy


def new_version(key: str) -> NewVersion:
    return NewVersion(0, None, "tolerant", 0, "recipe", key, {"validation_accuracy": 0.5}, "sha")


@pytest.fixture
def log_one(home: Path) -> Callable[[str], tuple[str, str]]:
    """Function that logs a tiny model for a family and returns the ids of model and run."""
    spec = DataSpec("digits", ("a", "b"), None, (0.5,), (0.5,), (1, 8, 8), "d" * 64)

    def log(name: str) -> tuple[str, str]:
        network = build_network("resnet8", 2, (1, 8, 8), {"width": 1})
        run = start_run(ensure_experiment(name), "made", (), {"key": "k"}, "", {}, spec)
        model = LoadedModel(network, "resnet8", {"width": 1}, spec, "")
        return log_model(model, f"{name}-generation-0", run.run_id, {}), run.run_id

    return log


def test_later_version_of_a_key_takes_itself_back(
    log_one: Callable[[str], tuple[str, str]], name: str
) -> None:
    first = register(name, new_version("a"), *log_one(name))
    other = register(name, new_version("b"), *log_one(name))
    again = register(name, new_version("a"), *log_one(name))
    assert (again.id, again.model_id) == (first.id, first.model_id)
    assert [version.version for version in read_family(name)] == [first.version, other.version]
    assert {finding.check for finding in examine(name, lambda _key: False, weights=False).findings} <= {
        "half-finished"  # the runs that this test leaves open
    }


def test_doctor_names_double_keys_and_removes_those_that_nobody_needs(
    log_one: Callable[[str], tuple[str, str]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:  # versions of earlier days, which did not look again
        earlier.setattr("lineage.registry.family.register.find_key", lambda *_: None)
        for key in ("a", "a", "b", "a"):
            register(name, new_version(key), *log_one(name))
    promote(f"models:/{name}/2", "production")
    found = [
        finding
        for finding in examine(name, lambda _key: False, weights=False).findings
        if finding.check == "double-key"
    ]
    assert [(finding.subject, finding.repair is not None) for finding in found] == [
        (f"models:/{name}/4", True),
        (f"models:/{name}/2", False),
    ]
    examine(name, lambda _key: False, weights=False, fix=True)
    assert [version.version for version in read_family(name)] == [1, 2, 3]


def test_one_holds_a_key_and_the_others_are_told_who(home: Path, name: str) -> None:
    first, second = Leases(60, 120), Leases(60, 120)
    ours, theirs = work(name, home / "a"), work(name, home / "b")
    assert first.claim(ours) is None
    said = second.claim(theirs)
    assert said is not None and f"process {os.getpid()} on" in said and name in said
    assert not theirs.checkpoint.folder.exists()
    first.release(ours.key)
    assert not ours.checkpoint.folder.exists()
    assert second.claim(theirs) is None
    second.release(theirs.key)
    assert read_lease(ensure_experiment(name), ours.key) is None


def test_holder_that_shows_life_keeps_the_key_and_a_silent_one_loses_it(home: Path, name: str) -> None:
    experiment = ensure_experiment(name)
    waiting, wanted = Leases(60, 120), work(name, home / "b")
    lease = Lease("other", "process 1 on elsewhere", grace=0.5)
    for count in range(4):
        write_lease(experiment, wanted.key, Lease("other", lease.holder, lease.grace, count))
        assert waiting.claim(wanted) is not None
        time.sleep(0.3)
    assert waiting.claim(wanted) is not None
    time.sleep(0.6)
    assert waiting.claim(wanted) is None
    waiting.release(wanted.key)


def test_lease_is_refreshed_by_its_holder(home: Path, name: str) -> None:
    leases, held = Leases(0.05, 120), work(name, home / "a")
    assert leases.claim(held) is None
    deadline = time.monotonic() + 30
    while (lease := read_lease(ensure_experiment(name), held.key)) and lease.count < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    leases.require(held.key)
    leases.release(held.key)


def test_killed_process_is_followed_at_once_in_its_own_folder(home: Path, name: str) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from lineage.growing.leases import Leases, Work\n"
        "from lineage.training.checkpoints import Checkpoint\n"
        f"claimed = Leases(60, 120).claim(Work({name!r}, 'k', Checkpoint(Path('a/k'))))\n"
        "assert claimed is None; os.kill(os.getpid(), 9)"
    )
    assert run_warm(["-c", code], home).returncode == -9
    assert Leases(60, 120).claim(Work(name, "k", Checkpoint(home / "b/k"))) is not None
    next_one = Leases(60, 120)
    assert next_one.claim(Work(name, "k", Checkpoint(home / "a/k"))) is None
    next_one.release("k")


def test_overwritten_lease_is_noticed_and_left_to_its_new_holder(home: Path, name: str) -> None:
    leases, held = Leases(60, 120), work(name, home / "a")
    assert leases.claim(held) is None
    leases.confirm(held.key)
    taken = Lease("other", "process 1 on elsewhere", 120)
    write_lease(ensure_experiment(name), held.key, taken)
    with pytest.raises(LeaseLostError, match="another one has taken it over"):
        leases.confirm(held.key)
    leases.release(held.key)
    assert read_lease(ensure_experiment(name), held.key) == taken


def test_altered_lease_is_nobodys(home: Path, name: str) -> None:
    leases, wanted = Leases(60, 120), work(name, home / "a")
    MlflowClient().set_experiment_tag(ensure_experiment(name), f"lineage.lease.{wanted.key}", "{altered")
    assert leases.claim(wanted) is None
    leases.release(wanted.key)


def test_waiting_ends_with_what_the_holder_registered(home: Path, name: str) -> None:
    holder, told = Leases(60, 120), []
    held = work(name, home / "a")
    assert holder.claim(held) is None
    registered: list[str] = []

    def finish() -> None:
        registered.append("version")
        holder.release(held.key)

    timer = threading.Timer(0.5, finish)
    timer.start()
    found = find_or_lease(
        Leases(60, 120), work(name, home / "b"), lambda: registered[0] if registered else None, told.append
    )
    timer.join()
    assert (found, len(told)) == ("version", 1)
