"""Broken images, and classes that lack images: found before training, and named."""

import io
import logging
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lineage.data import checks
from lineage.data.batches import evaluation_batches
from lineage.data.datasets import DataSet, load_dataset
from lineage.data.decoding import ImageError
from lineage.errors import IntegrityError, UsageError
from lineage.evaluation.data import read_split
from lineage.recipe import DataSettings


def encoded(file_format: str = "JPEG", size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 50).save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                (tmp_path / part / name / f"{number}.jpg").write_bytes(encoded())
    return tmp_path


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "no image"])
def test_broken_image_is_found_when_the_data_are_loaded(part: str, file_format: str, folder: Path) -> None:
    image = b"no image" if file_format == "no image" else encoded(file_format)
    file = folder / part / "cat" / "broken.jpg"
    file.write_bytes(image[: len(image) // 2])
    with pytest.raises(IntegrityError, match=rf"{file} \(class 'cat'\) must be an image that decodes"):
        load_dataset("imagefolder", str(folder))


def test_jpeg_that_lacks_only_its_last_bytes_or_has_more_is_whole_if_it_decodes(folder: Path) -> None:
    (folder / "test" / "cat" / "0.jpg").write_bytes(encoded() + b"\0" * 100)
    assert len(load_dataset("imagefolder", str(folder)).test) == 6


def test_test_part_of_parquet_with_images_of_several_sizes_is_checked(tmp_path: Path) -> None:
    for part, last in (("train", encoded()), ("test", encoded()[:900])):
        table = pa.table({"image": [encoded(), encoded(size=32), last], "label": [0, 1, 1]})
        pq.write_table(table, tmp_path / f"{part}-0.parquet")
    with pytest.raises(IntegrityError, match=r"Row 2 of test-0\.parquet \(class '1'\) must be an image"):
        load_dataset("hub:a/b", str(tmp_path))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_is_the_same_sentence_with_workers(
    workers: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOST_CHECKED", 0)
    file = folder / "train" / "dog" / "1.jpg"
    file.write_bytes(encoded()[:900])
    data = load_dataset("imagefolder", str(folder), image_size=16)
    with pytest.raises(ImageError) as told:
        list(evaluation_batches(data.train, data.spec, torch.arange(6), 2, workers))
    assert str(told.value).startswith(f"{file} (class 'dog') must be an image that decodes, but is not: ")
    assert str(told.value).endswith("; replace or remove it.")
    assert "\n" not in str(told.value)


def test_class_without_test_images_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in (folder / "test" / "dog").iterdir():
        file.unlink()
    with caplog.at_level(logging.WARNING):
        load_dataset("imagefolder", str(folder))
    assert caplog.messages == ["The test part of data set 'imagefolder' has no image of 'dog'."]


def test_class_of_one_training_image_is_named(folder: Path) -> None:
    for number in (1, 2):
        (folder / "train" / "dog" / f"{number}.jpg").unlink()
    with pytest.raises(UsageError, match="must have 2 training images or more, but 'dog' has fewer"):
        read_split(DataSettings(name="imagefolder", root=str(folder)))


def test_classes_of_one_name_are_refused() -> None:
    digits = load_dataset("digits")
    names = ("zero", *digits.spec.class_names[1:9], "zero")
    twice = DataSet(digits.train, digits.test, replace(digits.spec, class_names=names))
    with pytest.raises(IntegrityError, match="must have a name of its own, but 0 and 9 are all 'zero'"):
        checks.check_classes(twice)
