"""A few steps of every full-scale recipe, with the CPU time of an image: ``full_scale.py --data FOLDER``.

Each recipe grows a patriarch and a student with its own network, batch size, precision and image size, on a
part of CIFAR-100: as it is, or as JPEG files of 224×224 pixels in ILSVRC2012's folders. It shows that recipes
which need a GPU run from end to end, and what they cost without one; the accuracies mean nothing.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ignite.engine import Engine, Events
from peer import write_between
from PIL import Image

from lineage.cli.startup import prepare_process
from lineage.display.progress import SilentReporter
from lineage.growing.plan import read_split_data
from lineage.growing.succession import Succession
from lineage.recipe import load_recipe

STEPS = 3
IMAGES_A_CLASS = {"train": 10, "test": 1}
IMAGE_SIZE = 224
CIFAR = (
    "cifar100-resnet20",
    "cifar100-resnet56",
    "cifar100-resnet110",
    "cifar100-densenet-bc-100-12",
    "cifar100-wrn-28-10",
    "cifar100-function-matching",
    "cifar100-resnet32x4-to-8x4",
    "cifar100-resnet56-to-20",
)
IMAGENET = ("imagenet-resnet18", "imagenet-resnet50")
OF_IMAGENET = (
    "training.accumulation=8",  # a whole batch takes more memory than a computer without a GPU may have
    "data.validation=0.1",  # of so few images, one of each class
)


@dataclass(frozen=True)
class Cost:
    """CPU time of a recipe's training.

    Attributes:
        recipe: Name of the recipe.
        network: Name of its network.
        patriarch: Milliseconds an image without a teacher, loading included.
        student: Milliseconds an image with a teacher.
    """

    recipe: str
    network: str
    patriarch: float
    student: float

    def __str__(self) -> str:
        return f"| {self.recipe} | {self.network} | {self.patriarch:,.1f} ms | {self.student:,.1f} ms |"


def measure(name: str, overrides: Sequence[str]) -> Cost:
    """Grow a patriarch and a student of a shipped recipe in the store in use, for a few steps each.

    Args:
        name: Name of the recipe.
        overrides: Texts ``section.key=value``.
    """
    batch_size = load_recipe(name).training.batch_size
    few = [f"data.train_samples={STEPS * batch_size}", "training.epochs=1", "succession.generations=1"]
    few.append("succession.student=[]")  # of other numbers of epochs
    recipe = load_recipe(name, [*few, "data.workers=0", *overrides])
    times: list[list[float]] = []

    def watch(trainer: Engine, _generation: int) -> None:
        marks: list[float] = []
        times.append(marks)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: marks.append(time.process_time()))

    grown = Succession(recipe, read_split_data(recipe), SilentReporter(), observe=watch).run()
    assert [version.generation for version in grown.versions] == [0, 1]
    images = batch_size // recipe.training.accumulation
    # The first iteration warms up
    costs = [1000 * (marks[-1] - marks[0]) / (len(marks) - 1) / images for marks in times]
    return Cost(name, recipe.network.name, *costs)


def write_part(source: Path, folder: Path) -> None:
    """Write the first images of every class of CIFAR-100 in the layout that ``source`` has."""
    folder.mkdir(parents=True)
    for part, count in IMAGES_A_CLASS.items():
        rows = _first_of_each(source, part, count)
        pq.write_table(rows, folder / f"{part}-00000-of-00001.parquet")


def write_jpegs(source: Path, folder: Path) -> None:
    """Write the same images as ``train/CLASS/N.JPEG`` and ``val/CLASS/N.JPEG``, enlarged to 224×224."""
    for part, name in (("train", "train"), ("test", "val")):
        rows = _first_of_each(source, part, IMAGES_A_CLASS[part]).to_pylist()
        for number, row in enumerate(rows):
            place = folder / name / f"n{row['fine_label']:08}"
            place.mkdir(parents=True, exist_ok=True)
            image = Image.open(io.BytesIO(row["img"]["bytes"])).resize((IMAGE_SIZE, IMAGE_SIZE))
            image.save(place / f"{number}.JPEG", quality=95)


def table(costs: Iterable[Cost]) -> str:
    """Return the costs as a Markdown table."""
    machine = f"torch {torch.__version__}, one thread"
    head = f"| recipe | network | patriarch, CPU time an image ({machine}) | student |\n|---|---|---|---|"
    return "\n".join([head, *map(str, costs)])


def _first_of_each(source: Path, part: str, count: int) -> pa.Table:
    """Return the first ``count`` rows of each class, class by class."""
    (file,) = source.glob(f"{part}-*.parquet")
    rows = pq.read_table(file)
    places: dict[int, list[int]] = {}
    for place, label in enumerate(rows["fine_label"].to_pylist()):
        places.setdefault(label, []).append(place)
    return rows.take([place for _, those in sorted(places.items()) for place in those[:count]])


def main() -> None:
    """Grow the recipes that were asked for, and print what their training took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-100 in Parquet files")
    parser.add_argument("--only", choices=(*CIFAR, *IMAGENET), nargs="*", default=[*CIFAR, *IMAGENET])
    parser.add_argument("--page", type=Path, help="page whose table is to be written")
    given = parser.parse_args()
    source, page = given.data.resolve(), given.page and given.page.resolve()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    torch.set_num_threads(1)
    prepare_process()
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        os.environ["LINEAGE_HOME"] = f"{home}/.lineage"
        small, jpegs = Path(home, "cifar"), Path(home, "imagenet")
        write_part(source, small)
        write_jpegs(source, jpegs)
        costs = []
        for name in given.only:
            overrides = [f"data.root={small}"]
            if name in IMAGENET:
                overrides = [f"data.root={jpegs}", *OF_IMAGENET]
            costs.append(measure(name, overrides))
            print(costs[-1], flush=True)  # noqa: T201
        os.chdir(source)  # the folder is about to go
    text = table(costs)
    print(f"\n{text}")  # noqa: T201
    if page is not None:
        write_between(page, "full-scale", text)


if __name__ == "__main__":
    main()
