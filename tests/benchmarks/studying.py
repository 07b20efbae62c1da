"""Trials over temperature and label weight, taught by a live teacher and by its stored soft targets."""

import shutil
import tempfile
from pathlib import Path

from common import Row, child, ratios, row
from pyarrow import parquet

TRIALS, AT_A_TIME = 16, 4
EPOCHS, IMAGES, TEST_IMAGES = 3, 1280, 500

PATRIARCH = """
import json, sys, lineage
name, *overrides = sys.argv[1:]
lineage.grow("cifar100-resnet20", name=name, generations=0, overrides=[*overrides, "training.epochs=0"])
print(json.dumps({}))
"""

# What the trials of a study do, one after another; a study itself has one network for teacher and students
STUDENTS = """
import itertools, json, sys, time
from lineage.cli.memory import keep_freed_memory
from lineage.growing.plan import read_split_data
from lineage.recipe import change_recipe, load_recipe
from lineage.registry.family.lookup import find_version
from lineage.display.progress import SilentReporter
from lineage.growing.succession import Succession
name, first, number, *overrides = sys.argv[1:]
keep_freed_memory()
base = load_recipe("cifar100-resnet20", [*overrides, f"model.name={name}", "succession.generations=1"])
split_data, teacher = read_split_data(base), find_version(f"models:/{name}/1")
grid = list(itertools.product((1.0, 2.0, 4.0, 8.0), (0.1, 0.3, 0.5, 0.9)))
started = time.perf_counter()
for temperature, weight in grid[int(first) : int(first) + int(number)]:
    tried = [f"student.temperature={temperature}", f"student.label_weight={weight}"]
    Succession(change_recipe(base, tried), split_data, SilentReporter(), from_version=teacher).run()
print(json.dumps({"seconds": time.perf_counter() - started}))
"""


def study(data: Path, rounds: int) -> list[Row]:
    """Sixteen students of one teacher on a grid; the two ways take turns, four students each."""
    rows = []
    for network, bar in (("resnet20", 0.9), ("resnet56", 0.65)):
        seconds = _study(data, network)
        found = ratios(seconds["stored"], seconds["live"])
        rows.append(
            row(
                f"16 students over temperature and label weight, {network} → resnet20: stored / live",
                [sum(seconds["stored"]) / sum(seconds["live"])],
                " ×",
                at_most=bar,
            )
        )
        rows.append(row(f"the same, {AT_A_TIME} at a time", found, " ×"))
    return rows


def _study(data: Path, network: str) -> dict[str, list[float]]:
    """Seconds of each four students, both ways."""
    common = ["training.precision=bf16", "data.validation=0.02"]
    common += [f"training.epochs={EPOCHS}", f"data.train_samples={IMAGES}"]
    folder = Path(tempfile.mkdtemp())
    seconds: dict[str, list[float]] = {"live": [], "stored": []}
    try:
        _shorten(data, folder / "data")
        common.append(f"data.root={folder / 'data'}")
        environment = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "LINEAGE_HOME": str(folder / ".lineage"),
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        for way in seconds:
            child(PATRIARCH, f"{network}-{way}", *common, f"network.name={network}", environment=environment)
        for first in range(0, TRIALS, AT_A_TIME):
            for way, taken in seconds.items():
                words = [
                    f"{network}-{way}",
                    str(first),
                    str(AT_A_TIME),
                    f"student.soft_targets={way}",
                    *common,
                ]
                taken.append(child(STUDENTS, *words, environment=environment)["seconds"])
    finally:
        shutil.rmtree(folder)
    return seconds


def _shorten(data: Path, folder: Path) -> None:
    """The same images with a short test part, which would else take longer than such short trainings."""
    folder.mkdir()
    for file in data.glob("*.parquet"):
        table = parquet.read_table(file)
        parquet.write_table(
            table[:TEST_IMAGES] if file.name.startswith("test") else table, folder / file.name
        )
