"""A family on real images at half their size: everything done with its versions takes that size."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest

import lineage
from lineage.errors import IntegrityError, UsageError

DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
SETTINGS = (
    "data.name=cifar10",
    "data.crop_padding=2",
    "network.width=2",
    "training.epochs=1",
    "training.warmup_epochs=0",
    "training.batch_size=32",
)
HALF = (*SETTINGS, "data.image_size=16")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data are not at {DATA}")

Grow = Callable[..., lineage.Lineage]


@pytest.fixture(scope="module")
def images(module_home: Path) -> Path:
    """A part of CIFAR-10: 200 images to train on and 100 to test on."""
    folder = module_home / "images"
    folder.mkdir()
    for part, count in (("train", 200), ("test", 100)):
        file = f"{part}-00000-of-00001.parquet"
        pq.write_table(pq.read_table(DATA / file).slice(0, count), folder / file)
    return folder


@pytest.fixture(scope="module")
def grow(images: Path) -> Grow:
    """Function that grows on those images; ``half`` is a patriarch and a student at 16 pixels."""

    def grow_on_images(*settings: str, **options: object) -> lineage.Lineage:
        recipe = None if "teacher" in options else "digits"
        return lineage.grow(recipe, overrides=[*settings, f"data.root={images}"], **options)[0]  # type: ignore[arg-type]

    grow_on_images(*HALF, name="half", generations=1)
    return grow_on_images


def test_version_is_measured_and_transferred_at_its_size_where_its_images_lie(grow: Grow) -> None:
    found = lineage.evaluate("models:/half/2")
    assert found.metrics == pytest.approx(found.recorded)
    both = lineage.ensemble(["models:/half/1", "models:/half/2"])
    assert both.member_metrics[1]["accuracy"] == pytest.approx(found.recorded["test_accuracy"])
    assert lineage.diff("models:/half/1", "models:/half/2").recipe == {}
    root = f"data.root={Path('images').resolve()}"
    (own,) = lineage.transfer(
        "models:/half/2",
        "cifar10",
        probe="knn",
        overrides=[root, "data.image_size=16", "data.validation=0.5"],
    )
    assert own.notes == ()


def test_pyfunc_takes_images_of_the_size(grow: Grow) -> None:
    model = mlflow.pyfunc.load_model("models:/half/2")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 3, 16, 16)
    assert model.predict(np.zeros((2, 3, 16, 16), np.float32)).shape == (2, 10)


def test_images_of_another_size_are_refused(grow: Grow) -> None:
    sentence = r"models:/half/1 was grown on images of 16×16 pixels, but those of 'cifar10' here have 8×8;"
    with pytest.raises(IntegrityError, match=sentence):
        lineage.evaluate("models:/half/1", ["data.image_size=8"])
    with pytest.raises(
        IntegrityError, match=r"takes \(3, 16, 16\) and 'cifar10' has \(3, 8, 8\); set data.image_size"
    ):
        grow("data.image_size=8", teacher="models:/half/1", name="other")
    with pytest.raises(
        UsageError, match=r"must divide the edge of the images of 'cifar10', 32 pixels, but got 224"
    ):
        grow(*SETTINGS, "data.image_size=224", name="other")


def test_branch_and_stored_soft_targets_keep_the_size(grow: Grow) -> None:
    stored = grow("student.soft_targets=stored", teacher="models:/half/1")
    assert lineage.load(stored.versions[-1].uri).spec.input_shape == (3, 16, 16)
    same = grow("succession.generations=1", teacher="models:/half/1")
    assert (same.num_trained, same.versions[-1].uri) == (0, "models:/half/2")


def test_changed_images_are_told_though_a_run_names_the_size_that_they_once_ignored(
    grow: Grow, images: Path, tmp_path: Path
) -> None:
    grow(*SETTINGS, name="whole", generations=0)
    with sqlite3.connect("mlflow.db") as database:
        changed = database.execute(
            "UPDATE params SET value = '224' WHERE key = 'data.image_size' AND value = 'None'"
        )
    assert changed.rowcount == 1
    assert grow(*SETTINGS, name="whole", generations=0).num_trained == 0
    fewer = tmp_path / "train-00000-of-00001.parquet"
    train = images / fewer.name
    kept = train.rename(tmp_path / "kept")
    try:
        pq.write_table(pq.read_table(kept).slice(1), train)
        with pytest.raises(IntegrityError, match="images were added, removed or changed"):
            grow(*SETTINGS, name="whole", generations=0)
    finally:
        kept.rename(train)
