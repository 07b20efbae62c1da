"""Costs beside training: start-up of commands, an empty generation, MLflow, many generations."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common import Row, child, row
from large import multiply_family

COMMAND = [str(Path(sys.executable).with_name("lineage"))]
TINY = ["network.width=4", "training.warmup_epochs=0"]
COMMANDS = {
    "grow digits": 4.0,  # finds all generations registered
    "doctor digits": 3.0,
    "evaluate models:/digits/1": 4.5,
}
"""Most seconds that each command may take on the family that the recipe ``digits`` grows."""

GROWN = """
import json, time, lineage
tiny = ["network.width=4", "training.warmup_epochs=0", "training.epochs=0"]
lineage.grow("digits", generations=0, overrides=tiny)
seconds = {}
for seed in range(1, 8):
    started = time.perf_counter()
    lineage.grow("digits", generations=0, seeds=[seed], overrides=tiny)
    seconds[seed] = time.perf_counter() - started
print(json.dumps(seconds))
"""

MANY = """
import json, time
from pathlib import Path
import lineage
from lineage.display.progress import SilentReporter
def resident():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
class Watch(SilentReporter):
    def __init__(self):
        self.times, self.memory = [], []
    def completed(self, version):
        self.times.append(time.perf_counter())
        self.memory.append(resident())
watch = Watch()
lineage.grow("digits", generations=100, reporter=watch,
    overrides=["network.width=4", "training.warmup_epochs=0", "training.epochs=1", "data.train_samples=400"])
passed = [time - watch.times[0] for time in watch.times]
print(json.dumps({"ratio": passed[100] / passed[50], "seconds": passed[100] / 100,
    "memory_first": watch.memory[10], "memory_last": watch.memory[-1]}))
"""

REGISTRY = """
import json, sys, time
import lineage, mlflow
from mlflow import MlflowClient
from mlflow.models import Model
from lineage.cli.memory import keep_freed_memory
keep_freed_memory()
spent, depth = 0.0, 0
def timed(function):
    def call(*arguments, **keywords):
        global spent, depth
        depth += 1
        started = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            depth -= 1
            if depth == 0:
                spent += time.perf_counter() - started
    return call
lineage.grow("digits", generations=0, overrides=["training.epochs=0"])  # makes the store, which is not timed
for name, method in vars(MlflowClient).items():
    if callable(method) and not name.startswith("_"):
        setattr(MlflowClient, name, timed(method))
Model.log = timed(Model.log)
mlflow.search_runs = timed(mlflow.search_runs)
mlflow.artifacts.download_artifacts = timed(mlflow.artifacts.download_artifacts)
started = time.perf_counter()
lineage.grow("cifar100-small", generations=1,
    overrides=[f"data.root={sys.argv[1]}", "data.train_samples=8000"])
whole = time.perf_counter() - started
print(json.dumps({"spent": spent / 2, "whole": whole / 2}))
"""


@contextmanager
def _home() -> Iterator[Path]:
    """Work in a new folder, with a store of its own."""
    before = Path.cwd()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    try:
        yield folder
    finally:
        os.chdir(before)
        shutil.rmtree(folder)


def start(data: Path, rounds: int) -> list[Row]:
    """Time whole processes: the help, commands on a small family, and the trees of large families."""
    rows = [row("lineage --help", _seconds(["--help"], 5), " s", at_most=0.3)]
    with _home():
        rows.append(
            row("lineage grow digits, the first time", _seconds(["grow", "digits"], 1), " s", at_most=13)
        )
        for command, bar in COMMANDS.items():
            rows.append(row(f"lineage {command}", _seconds(command.split(), 5), " s", at_most=bar))
    with _home() as home:
        tiny = [word for setting in TINY for word in ("--set", setting)]
        grow = [*COMMAND, "grow", "digits", "--generations", "1", "--set", "training.epochs=1", *tiny]
        subprocess.run(grow, check=True, capture_output=True)
        database = (home / "mlflow.db").read_bytes()
        for size, bar in ((300, 2.5), (10_000, 6.0)):
            (home / "mlflow.db").write_bytes(database)
            multiply_family(f"sqlite:///{home / 'mlflow.db'}", "digits", size)
            seconds = _seconds(["tree", "digits"], 5)
            rows.append(row(f"lineage tree of {size:,} versions", seconds, " s", at_most=bar))
    return rows


def machinery(data: Path, rounds: int) -> list[Row]:
    """Time what a generation costs beside its training."""
    with _home():
        empty = child(GROWN)
    with _home():
        share = child(REGISTRY, str(data))
    with _home():
        many = child(MANY)
    return [
        row("a generation of 0 epochs", list(empty.values()), " s", at_most=1.0),
        row(
            f"MLflow's share of {share['whole']:.0f}-s generations of 8 epochs, in an existing store",
            [100 * share["spent"] / share["whole"]],
            " %",
            1,
            at_most=2.0,
        ),
        row("100 tiny generations, each", [many["seconds"]], " s"),
        row("time of 100 generations / of 50", [many["ratio"]], " ×", at_most=2.2),
        row(
            "growth of the peak memory from 10 to 100 generations",
            [many["memory_last"] - many["memory_first"]],
            " MB",
            0,
            at_most=50,
        ),
    ]


def step(_data: Path, rounds: int) -> list[Row]:
    """Measure what a step costs beside a bare loop."""
    found = child(Path(__file__).with_name("overhead.py").read_text(), str(rounds))
    extra = [1000 * (ours - bare) for ours, bare in zip(found["ours"], found["bare"], strict=True)]
    return [row("a training step beside a bare loop's, CPU time", extra, " ms", at_most=0.3)]


def _seconds(arguments: Sequence[str], times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return seconds
