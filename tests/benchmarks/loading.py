"""Loading: images in memory, images that are streamed, and what data sets take at rest."""

import shutil
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from common import Contestant, Row, child, hold_contest, row
from PIL import Image

BATCH = 128
IMAGES_PER_CLASS, CLASSES = 60, 10
INDEX_CLASSES, INDEX_FILES = 1000, 1_280_000

VIEWS = """
import json, sys, time, torch
from lineage.data.batches import Augmentation, training_batches
from lineage.data.datasets import load_dataset
torch.set_num_threads(1)
data = load_dataset("cifar100", sys.argv[1])
rows = torch.arange(len(data.train))
views = Augmentation(4, sys.argv[2], True, mixup=float(sys.argv[3]))
batches = training_batches(data.train, data.spec, rows, 128, views, 0, 0)
speeds = {}
for epoch in range(1, 8):
    batches.select_epoch(epoch)
    started, seen = time.perf_counter(), 0
    for images, _, _ in batches.loader:
        seen += len(images)
    speeds[epoch] = seen / (time.perf_counter() - started)
del speeds[1]
print(json.dumps(speeds))
"""

REST = """
import gc, json, sys
from pathlib import Path
import torch
import lineage.growing.plan
from lineage.data.datasets import load_dataset
def resident():
    gc.collect()
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
import pyarrow.parquet, PIL.Image, sklearn.model_selection
import time
before, started = resident(), time.perf_counter()
data = load_dataset(sys.argv[1], sys.argv[2])
print(json.dumps({"megabytes": resident() - before, "seconds": time.perf_counter() - started}))
"""


def memory_path(data: Path, rounds: int) -> list[Row]:
    """Crop, flip and normalise CIFAR images that lie in memory, on one core; and beside a training step."""
    found, mixed = (
        child(VIEWS, str(data), "zeros", mixup, environment={"OMP_NUM_THREADS": "1"})
        for mixup in ("0", "0.2")
    )
    step = partial(Contestant, "contestants.py", ["plain", str(data), "bf16"])
    seconds = hold_contest({"step": step}, rounds, steps=10, warm_up=10)["step"]
    loading = 10 * BATCH / statistics.median(found.values())
    return [
        row(
            "crop, flip, normalise CIFAR on one core, images/s",
            list(found.values()),
            digits=0,
            at_least=50_000,
        ),
        row("the same with mixup, images/s", list(mixed.values()), digits=0, at_least=25_000),
        row(
            "the same / a ResNet-20's step in bfloat16 on all cores",
            [100 * loading / one for one in seconds],
            " %",
            at_most=2,
        ),
    ]


def streamed(data: Path, rounds: int) -> list[Row]:
    """Made-up photographs of ImageNet's size, decoded by one worker while one thread trains."""
    folder = Path(tempfile.mkdtemp())
    try:
        _make_photographs(folder)
        kinds = ("decode", "train", "both")
        contestants = {
            kind: partial(Contestant, "streaming.py", [kind, str(folder)], {"OMP_NUM_THREADS": "1"})
            for kind in kinds
        }
        seconds = hold_contest(contestants, rounds, steps=6, warm_up=6)
    finally:
        shutil.rmtree(folder)
    slower = [max(pair) for pair in zip(seconds["decode"], seconds["train"], strict=True)]
    found = [ideal / taken for ideal, taken in zip(slower, seconds["both"], strict=True)]
    images = 6 * 32
    return [
        *(
            row(f"streamed, {title}, images/s", [images / one for one in seconds[kind]], digits=0)
            for kind, title in zip(kinds, ("decoding alone", "training alone", "both at once"), strict=True)
        ),
        row("streamed: speed / that of the slower alone", found, " ×", at_least=0.9),
    ]


def at_rest(data: Path, rounds: int) -> list[Row]:
    """What data sets take in memory, above a process that has its imports."""
    cifar = [child(REST, "cifar100", str(data)) for _ in range(3)]
    folder = Path(tempfile.mkdtemp())
    try:
        _make_index(folder)
        index = [child(REST, "imagenet", str(folder)) for _ in range(3)]
    finally:
        shutil.rmtree(folder)
    return [
        row("CIFAR-100 at rest", [one["megabytes"] for one in cifar], " MB", 0, at_most=250),
        row("index of 1.28 million files", [one["megabytes"] for one in index], " MB", 0, at_most=300),
        row("the same, to open", [one["seconds"] for one in index], " s", 1, at_most=10),
    ]


def _make_photographs(folder: Path) -> None:
    """JPEGs of 500 × 375 that are as smooth as photographs."""
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(CLASSES):
            place = folder / part / f"n{label:08}"
            place.mkdir(parents=True)
            for number in range(IMAGES_PER_CLASS if part == "train" else 1):
                small = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                image = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
                image.save(place / f"{number}.JPEG", quality=90)


def _make_index(folder: Path) -> None:
    """Empty files under the names that ILSVRC2012 has."""
    for part, files in (("train", INDEX_FILES // INDEX_CLASSES), ("val", 1)):
        for label in range(INDEX_CLASSES):
            place = folder / part / f"n{label:08}"
            place.mkdir(parents=True)
            for number in range(files):
                (place / f"n{label:08}_{number}.JPEG").touch()
