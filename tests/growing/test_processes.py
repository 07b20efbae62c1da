"""Several processes that grow one family: rank 0 alone calls the registry, and any of them may die."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file
from warm import WarmProcess

import lineage
from lineage.registry.family.lookup import read_family
from lineage.training.devices import translated_process_errors

Ranks = list[WarmProcess]
Start = Callable[..., Ranks]


@pytest.fixture
def silent_store() -> Iterator[socket.socket]:
    """A listening socket that never answers; its queue keeps connections."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
def start(
    home: Path, tiny: Callable[..., list[str]], free_port: Callable[[], int], silent_store: socket.socket
) -> Iterator[Start]:
    """Function that starts two ranks of ``lineage grow digits``, as if on two machines that share no disk.

    The second one has a folder of its own for states, and the silent store.
    """
    started: Ranks = []

    def start_ranks(*arguments: str) -> Ranks:
        common = os.environ | {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        common |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        stores = (os.environ["MLFLOW_TRACKING_URI"], f"http://127.0.0.1:{silent_store.getsockname()[1]}")
        ranks = [
            WarmProcess(
                ["-m", "lineage", "grow", "digits", *tiny("training.epochs=6"), *arguments],
                home,
                common
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MLFLOW_TRACKING_URI": store}
                | {"LINEAGE_HOME": str(home / f"state-{rank}")},
                stderr=subprocess.PIPE,
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
    """Wait for ranks that must succeed; return the standard error of the first."""
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return errors[0]


def test_first_process_alone_speaks_to_the_registry(start: Start, silent_store: socket.socket) -> None:
    finish(start("--generations", "1"))
    assert [version.teacher for version in read_family("digits")] == [None, "digits/1"]
    with pytest.raises(BlockingIOError):  # no connection is queued
        silent_store.accept()


@pytest.mark.slow
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
    assert not [*Path.cwd().glob("state-1/*/epoch-*")]
    finish(start("--generations", "0", "--name", "whole"))
    (version,), (same,) = read_family("digits"), read_family("whole")
    assert version.weights_sha256 == same.weights_sha256


def test_error_of_another_sort_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), translated_process_errors():
        raise RuntimeError("shapes do not fit")


PLAIN = """
from torch import nn


class Plain(nn.Module):
    '''Without BatchNorm, in double precision.'''

    def __init__(self, num_classes, input_shape):
        super().__init__()
        self.convolution = nn.Conv2d(input_shape[0], 4, 3).double()
        self.classifier = nn.Linear(4 * 36, num_classes).double()

    def features(self, x):
        return self.convolution(x.double()).relu().flatten(1)

    def forward(self, x):
        return self.classifier(self.features(x))
"""


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network, installed as a package, whose steps are the same on any number of processes."""
    information = tmp_path / "site" / "exact-1.0.dist-info"
    information.mkdir(parents=True)
    (information.parent / "exact.py").write_text(PLAIN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: exact\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[lineage.networks]\nplain = exact:Plain\n")
    monkeypatch.syspath_prepend(information.parent)
    monkeypatch.setenv("PYTHONPATH", str(information.parent), prepend=os.pathsep)


def numbers_of(version: lineage.Version) -> dict[str, list[float]]:
    client = MlflowClient()
    names = ("train_loss", "validation_accuracy", "validation_cross_entropy", "lr")
    return {
        name: [point.value for point in client.get_metric_history(version.run_id, name)] for name in names
    }


WAYS = {"two": (2, []), "four": (4, []), "parts": (2, ["training.accumulation=2"])}
"""Number of processes, and further settings, by the name of the family."""


TAUGHT = [
    "student.loss=dist",
    "student.terms=[{name = 'relation', weight = 1}, {name = 'attention', weight = 100}]",
]


@pytest.mark.parametrize(
    ("ways", "lessons"),
    [
        (["two"], []),
        pytest.param(["four", "parts"], [], marks=pytest.mark.slow),
        pytest.param(["two"], TAUGHT, marks=pytest.mark.slow),
    ],
    ids=["two", "four,parts", "two with terms"],
)
@pytest.mark.usefixtures("plain")
def test_several_processes_take_the_steps_of_one(
    ways: list[str], lessons: list[str], run_lineage: Callable[..., Any]
) -> None:
    settings = ["network.name=exact:plain", "training.epochs=2", "data.train_samples=400", *lessons]
    settings.append("training.batch_size=40")  # twenty steps a generation
    settings.append("data.augment={mixup = 0.5, cutmix = 1, erasing = 0.3}")
    for name in ("one", *ways):
        processes, more = WAYS.get(name, (1, []))
        options = [word for setting in (*settings, *more) for word in ("--set", setting)]
        grown = run_lineage("grow", "digits", "--name", name, "--processes", str(processes), *options)
        assert grown.returncode == 0, grown.stderr
    alone = read_family("one").versions
    assert [version.generation for version in alone] == [0, 1, 2]
    for name in ways:
        for one, several in zip(alone, read_family(name), strict=True):
            ours, theirs = (
                load_file(next(Path("mlruns").rglob(f"{version.model_id}/**/weights.safetensors")))
                for version in (one, several)
            )
            for weight, tensor in ours.items():
                assert (tensor - theirs[weight]).abs().max() < 1e-9, (name, weight)
            for number, values in numbers_of(one).items():
                assert numbers_of(several)[number] == pytest.approx(values, rel=1e-6), (name, number)
            for number in ("test_accuracy", "ensemble_accuracy"):  # to the last sample
                assert several.metrics[number] == one.metrics[number]


def processes_below(pid: int) -> list[int]:
    """Return the children that run ``lineage``, in the order in which they started."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"lineage" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def grow_on_two(home: Path, tiny: Callable[..., list[str]]) -> Iterator[Callable[..., WarmProcess]]:
    """Function that starts ``lineage grow digits --processes 2`` and waits for a line on standard error."""
    started: list[WarmProcess] = []

    def start(awaited: str) -> WarmProcess:
        command = ["grow", "digits", "--processes", "2", "--generations", "0", *tiny("training.epochs=300")]
        process = WarmProcess(["-m", "lineage", *command], home, stderr=subprocess.PIPE)
        started.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(awaited):
                return process
        raise AssertionError(process.wait())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_killed_process_ends_the_others_with_one_error(
    grow_on_two: Callable[..., WarmProcess],
) -> None:
    parent = grow_on_two("generation 0: epoch 2/")
    ranks = processes_below(parent.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode == 1
    lines = [line for line in errors.splitlines() if not line.startswith("generation 0: ")]
    assert lines == [
        "Error: All 2 processes must live until the end, but process 1 died of SIGKILL; run the same"
        " command again to continue."
    ]


@pytest.mark.slow
def test_launched_processes_continue_after_a_kill_and_are_interrupted_with_one_line(
    grow_on_two: Callable[..., WarmProcess],
) -> None:
    parent = grow_on_two("generation 0: epoch 2/")
    os.kill(processes_below(parent.pid)[1], signal.SIGKILL)
    parent.communicate(timeout=60)
    resumed = grow_on_two("generation 0: resumed after epoch")
    assert len(processes_below(resumed.pid)) == 2
    resumed.send_signal(signal.SIGINT)
    _, errors = resumed.communicate(timeout=60)
    assert resumed.returncode == 130
    assert "Interrupted; the same command continues from the last complete epoch: " in errors
    assert "Traceback" not in errors


def test_error_of_all_processes_is_told_once(run_lineage: Callable[..., Any]) -> None:
    done = run_lineage("grow", "digits", "--processes=2", "--set", "training.lr=-1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["Error: training.lr must be greater than 0, but got -1."]


def test_processes_within_a_launcher_are_refused(run_on_two: Callable[..., Any]) -> None:
    done = run_on_two("-m", "lineage", "grow", "digits", "--processes", "2")
    assert done.returncode != 0
    assert "--processes must be left out where a launcher has started several processes" in done.stderr
