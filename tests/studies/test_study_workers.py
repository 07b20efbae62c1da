"""Several workers on one study, in a real PostgreSQL; and several processes that are one worker."""

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from warm import WarmProcess

import lineage
from lineage.registry.care.doctor import examine

Options = Callable[..., list[str]]

SPACE = ["--space", "strictness=0.4:1.0:0.2", "temperature=1:8:log"]


class Command:
    """A ``lineage study`` in a process of its own, with what it prints as it goes."""

    def __init__(self, arguments: list[str], home: Path) -> None:
        self.log = home / "stderr.txt"
        with self.log.open("w") as log:
            self.process = WarmProcess(
                ["-m", "lineage", *arguments], home, stdout=subprocess.PIPE, stderr=log
            )

    def await_line(self, pattern: str) -> None:
        """Wait until a line that holds ``pattern`` is printed."""
        deadline = time.monotonic() + 60
        while not re.search(pattern, self.log.read_text()):
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Return the ids of the worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def finish(self) -> Any:
        """Wait for its successful end, and return the JSON that it printed."""
        printed, _ = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, self.log.read_text()
        return json.loads(printed)


@pytest.fixture
def begin(home: Path) -> Iterator[Callable[..., Command]]:
    """Function that starts a command; none outlives its test."""
    started: list[Command] = []

    def start(*arguments: str) -> Command:
        started.append(Command(list(arguments), home))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.communicate()


def _runs(name: str) -> list[Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def _await_epochs(name: str, num_generations: int) -> None:
    """Wait until that many generations have trained an epoch."""
    deadline = time.monotonic() + 120
    while sum("lineage.epoch" in run.data.tags for run in _runs(name)) < num_generations:
        assert time.monotonic() < deadline, "No generation trains."
        time.sleep(0.2)


@pytest.mark.slow
def test_study_survives_the_death_of_a_worker(
    study_database: str, begin: Callable[..., Command], tiny: Options
) -> None:
    settings = tiny("succession.generations=1", "study.heartbeat=1", "study.grace=5", "training.epochs=4")
    options = ["--storage", study_database, "--workers", "2", "--trials", "20", "--json", *settings, *SPACE]
    command = begin("study", "digits", "--name", "killed", *options)
    command.await_line(r"worker 1, trial [2-9]: generation 0")  # it is at the student now
    victim = command.workers()[0]
    os.kill(victim, signal.SIGKILL)
    result = command.finish()
    assert "died of SIGKILL; its trial is tried again after 5 s of silence" in command.log.read_text()

    states = Counter(trial["state"] for trial in result["trials"])
    assert states["COMPLETE"] + states["PRUNED"] == 20
    assert states["FAIL"] == 1
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    (dead,) = (trial for trial in result["trials"] if trial["state"] == "FAIL")
    (retry,) = (trial for trial in result["trials"] if trial["retry_of"] is not None)
    assert (retry["retry_of"], retry["values"]) == (dead["number"], dead["values"])
    assert dead["reason"] == "its worker died"

    family = lineage.tree("killed")
    assert len({version.key for version in family}) == len(family) == result["trained"]
    trained = Counter(run.data.tags.get("lineage.key") for run in _runs("killed"))
    del trained[None]
    assert set(trained.values()) == {1}  # one run a key, resumed where its worker died
    assert not [run for run in _runs("killed") if run.info.status == "RUNNING"]
    # a worker may die between logging a model and registering it, whose next one is logged anew
    findings = examine("killed", lambda _: False).findings
    assert {finding.check for finding in findings} <= {"unregistered-model"}


@pytest.mark.slow
def test_two_commands_share_a_study_and_train_no_key_twice(
    study_database: str, begin: Callable[..., Command], tiny: Options, home: Path
) -> None:
    settings = tiny("succession.generations=1", "study.heartbeat=1", "study.grace=3", "study.sampler=grid")
    options = ["--storage", study_database, "--json", *settings, "--space", "temperature=1,2,4,8"]
    first = begin("study", "digits", "--name", "shared", *options)
    second = Command(["study", "digits", "--name", "shared", *options], home)
    results = [first.finish(), second.finish()]
    assert [trial["state"] for trial in results[0]["trials"]] == ["COMPLETE"] * 4
    assert results[0] == results[1]
    family = lineage.tree("shared")
    assert [version.generation for version in family].count(0) == 1
    assert len({version.key for version in family}) == len(family) == 5
    assert len([run for run in _runs("shared") if "lineage.study.objective" in run.data.tags]) == 1


def test_ctrl_c_marks_the_trials_of_all_workers_and_leaves_with_130(
    study_database: str, begin: Callable[..., Command], tiny: Options
) -> None:
    name = "interrupted"
    settings = tiny("training.epochs=100000", "succession.generations=0")  # none ends by itself
    options = [
        "--storage",
        study_database,
        "--workers",
        "2",
        "--trials",
        "2",
        *settings,
        "--space",
        "strictness=0.4:1",
    ]
    command = begin("study", "digits", "--name", name, *options)
    command.await_line("trial 1: strictness")
    _await_epochs(name, num_generations=2)
    command.process.send_signal(signal.SIGINT)
    command.process.communicate(timeout=60)
    assert command.process.returncode == 130
    assert "Interrupted; the same command continues" in command.log.read_text()
    statuses = Counter(run.info.status for run in _runs(name))
    assert set(statuses) == {"KILLED"}
    trials = [run for run in _runs(name) if "lineage.trial" in run.data.tags]
    assert [run.data.tags["lineage.trial.reason"] for run in trials] == ["interrupted"] * 2


@pytest.mark.slow
def test_two_processes_of_a_launcher_grow_and_prune_the_same_trials(
    run_on_two: Callable[..., "subprocess.CompletedProcess[str]"], tiny: Options
) -> None:
    # a student is judged after its second epoch, unless it is the last
    pruner = ["study.pruner=threshold", "study.pruner_options={lower=1.1,n_warmup_steps=4}"]
    options = ["--sampler", "grid", "--json", *tiny(*pruner), "--space", "generations=1,2"]
    done = run_on_two("-m", "lineage", "study", "digits", "--name", "together", *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one document, from rank 0
    ended = {trial["values"]["succession.generations"]: trial["state"] for trial in result["trials"]}
    assert ended == {1: "COMPLETE", 2: "PRUNED"}
    assert (result["needed"], result["trained"]) == (4, 2)
    family = lineage.tree("together")
    assert [version.generation for version in family] == [0, 1]
    assert MlflowClient().get_run(family.versions[0].run_id).data.tags["lineage.processes"] == "2"
