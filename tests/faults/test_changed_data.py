"""Data that change under a family are told, and grow no second patriarch unnoticed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lineage
from lineage.errors import IntegrityError

Grow = Callable[..., lineage.Lineage]
SETTINGS = (
    "data.name=imagefolder",
    "data.image_size=16",
    "data.crop_padding=0",
    "data.validation=0",
    "network.name=resnet20",
    "network.width=1",
    "patriarch.top_k=2",
    "training.epochs=0",
    "training.batch_size=4",
    "training.warmup_epochs=0",
)


@pytest.fixture(scope="module")
def images(module_home: Path) -> Path:
    """A folder of two classes, whose images the tests take away and put back."""
    for part in ("train", "test"):
        for name, grey in (("dark", 20), ("light", 220)):
            (module_home / "images" / part / name).mkdir(parents=True)
            for index in range(4):
                path = module_home / "images" / part / name / f"{index}.png"
                Image.new("RGB", (16, 16), (grey + index,) * 3).save(path)
    return module_home / "images"


@pytest.fixture(scope="module")
def grow(images: Path) -> Grow:
    """Function that grows a patriarch on the images; the family is begun with all of them."""

    def grow_one(*overrides: str, **options: Any) -> lineage.Lineage:
        settings = [*SETTINGS, f"data.root={images}", *overrides]
        return lineage.grow("digits", overrides=settings, generations=0, **options)[0]

    grow_one()
    return grow_one


@pytest.fixture
def one_less(grow: Grow, images: Path, tmp_path: Path) -> Iterator[None]:
    """One image less than the family was begun with."""
    taken = images / "train/dark/0.png"
    kept = taken.rename(tmp_path / "0.png")
    yield
    kept.rename(taken)


@pytest.mark.usefixtures("one_less")
def test_missing_image_is_told_with_both_digests_before_anything_is_created(grow: Grow) -> None:
    sentence = (
        r"The data 'imagefolder' must be those that 'digits' was grown on, with the digest \w{12}… as for"
        r" models:/digits/1, but have \w{12}….*--name.*--new-data"
    )
    with pytest.raises(IntegrityError, match=sentence):
        grow()
    assert len(lineage.tree("digits")) == 1


def test_same_data_elsewhere_are_no_change(grow: Grow, images: Path) -> None:
    moved = images.rename(images.with_name("moved"))
    try:
        assert grow(f"data.root={moved}").num_trained == 0
    finally:
        moved.rename(images)


@pytest.mark.usefixtures("one_less")
def test_other_data_are_grown_under_another_name_or_by_a_flag(grow: Grow) -> None:
    assert grow(name="another").num_trained == 1
    assert grow(name="another").num_trained == 0
    assert grow("data.seed=7", name="another").num_trained == 1  # the family's data, with another split


def test_flag_admits_changed_data_and_both_are_the_familys_then(
    grow: Grow, images: Path, tmp_path: Path
) -> None:
    assert grow(name="both").num_trained == 1
    taken = images / "train/light/1.png"
    kept = taken.rename(tmp_path / "1.png")
    try:
        assert grow(name="both", new_data=True).num_trained == 1
        assert grow(name="both").num_trained == 0
    finally:
        kept.rename(taken)
    assert grow(name="both").num_trained == 0
    assert len(lineage.tree("both")) == 2


@pytest.mark.usefixtures("one_less")
def test_study_on_a_family_of_other_data_is_refused(grow: Grow, images: Path) -> None:
    settings = [*SETTINGS, f"data.root={images}", "data.validation=0.25"]
    with pytest.raises(IntegrityError, match=r"begin another study with --name\.$"):
        lineage.study("digits", name="digits", overrides=settings, space=["training.lr=0.1,0.2"], trials=1)
