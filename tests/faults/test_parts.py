"""Parts, class names and files of data sets as people have them."""

import json
import logging
import os
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lineage.data import parquet, parquet_size
from lineage.data.columns import find_columns
from lineage.data.datasets import MemoryImages, load_dataset
from lineage.errors import IntegrityError, LineageError, NotFoundError, RecipeError, UsageError
from lineage.recipe import load_recipe

NAMES = ("cat", "dog", "fox")
SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int64())])
JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["Image", "ClassLabel", "cat"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["info", "features", "label", "names", "_type"]), inner)
    ),
)
ONE = "00000-of-00001.parquet"


def encoded(label: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 4), (label * 40, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    folder: Path,
    file: str,
    labels: list[int],
    names: tuple[str, ...] | None = NAMES,
    images: list[int] | None = None,
    metadata: str | None = None,
) -> None:
    table = pa.table({"image": [encoded(image) for image in images or labels], "label": labels})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = json.dumps({"info": {"features": features}}) if metadata is None else metadata
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), folder / file)


def folders(root: Path, part: str, *files: str) -> None:
    for file in files:
        (root / part / file).parent.mkdir(parents=True, exist_ok=True)
        (root / part / file).write_bytes(encoded(1))


def test_class_names_in_another_order_are_renumbered_in_each_file(tmp_path: Path) -> None:
    write(tmp_path, "train-00000-of-00002.parquet", [0, 1, 2])
    write(tmp_path, "train-00001-of-00002.parquet", [2, 1, 0], ("fox", "dog", "cat"), [0, 1, 2])
    write(tmp_path, f"test-{ONE}", [0, 1], ("dog", "cat"), [1, 0])
    data = load_dataset("hub:a/b", str(tmp_path))
    assert isinstance(data.train, MemoryImages)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test.labels.tolist() == [1, 0]
    assert (data.train.pixels[..., 0].amax((1, 2)) == data.train.labels * 40).all()


def test_class_of_the_test_part_that_training_lacks_is_refused_if_it_has_images(tmp_path: Path) -> None:
    write(tmp_path, f"train-{ONE}", [0, 1, 2])
    write(tmp_path, f"test-{ONE}", [0, 1], ("cat", "dog", "cow", "fox"))
    assert load_dataset("hub:a/b", str(tmp_path)).test.labels.tolist() == [0, 1]
    write(tmp_path, f"test-{ONE}", [0, 2], ("cat", "dog", "cow", "fox"))
    with pytest.raises(UsageError, match=r"the test part of .* must also be one .*, but 'cow' is not"):
        load_dataset("hub:a/b", str(tmp_path))


def test_label_outside_its_own_files_names_is_refused(tmp_path: Path) -> None:
    write(tmp_path, f"train-{ONE}", [0, 1, 2])
    write(tmp_path, f"test-{ONE}", [0, 2], ("dog", "cat"))
    with pytest.raises(IntegrityError, match=r"must lie in 0\.\.1, but row 1 has 2"):
        load_dataset("hub:a/b", str(tmp_path))


@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_shard_is_named(part: str, tmp_path: Path) -> None:
    write(tmp_path, f"{'test' if part == 'train' else 'train'}-{ONE}", [0, 1, 2])
    for number in (0, 2):
        write(tmp_path, f"{part}-0000{number}-of-00003.parquet", [0, 1, 2])
    with pytest.raises(NotFoundError, match=rf"{part}-00002-of-00003, but lacks 1 of them, .* 1;"):
        load_dataset("hub:a/b", str(tmp_path))


@pytest.mark.parametrize("other", ["train-00000-of-00002.parquet", "train-00000-of-00001-a1b2.parquet"])
def test_shards_of_two_sets_are_refused(other: str, tmp_path: Path) -> None:
    for file in (f"train-{ONE}", other, f"test-{ONE}"):
        write(tmp_path, file, [0, 1, 2])
    with pytest.raises(IntegrityError, match=r"must hold one set of train-\*.parquet, but holds a mixture"):
        load_dataset("hub:a/b", str(tmp_path))


def test_part_without_labels_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, f"train-{ONE}", [0, 1, 2])
    write(tmp_path, f"test-{ONE}", [-1] * 4, images=[0, 1, 2, 0])
    write(tmp_path, f"validation-{ONE}", [2, 1, 0])
    with caplog.at_level(logging.WARNING):
        assert load_dataset("hub:a/b", str(tmp_path)).test.labels.tolist() == [2, 1, 0]
    assert caplog.messages == [
        "Part 'test' of data set 'hub:a/b' has no labels: 'validation' is held for test."
    ]


def test_set_without_any_labelled_test_part_is_refused(tmp_path: Path) -> None:
    write(tmp_path, f"train-{ONE}", [0, 1, 2])
    write(tmp_path, f"test-{ONE}", [-1], images=[0])
    with pytest.raises(IntegrityError, match=r"must have labels, but test has none; set data\.test to"):
        load_dataset("hub:a/b", str(tmp_path))


@pytest.mark.parametrize("layout", ["parquet", "folders"])
def test_part_that_is_held_for_test_can_be_said(layout: str, tmp_path: Path) -> None:
    for part, labels in (("train", [0, 1, 2]), ("test", [0]), ("validation", [1]), ("held.out", [2])):
        if layout == "parquet":
            write(tmp_path, f"{part}-{ONE}", labels)
        else:
            folders(tmp_path, part, *(f"{NAMES[label]}/1.png" for label in labels))
    name = "hub:a/b" if layout == "parquet" else "imagefolder"
    for part, label in ((None, 0), ("test", 0), ("validation", 1), ("held.out", 2)):
        assert load_dataset(name, str(tmp_path), test=part).test.labels.tolist() == [label]
    for wrong in ("train", "vaildation"):
        with pytest.raises(NotFoundError, match=rf"data\.test must name a part .* but got '{wrong}'"):
            load_dataset(name, str(tmp_path), test=wrong)


def test_part_is_refused_where_there_is_no_choice() -> None:
    with pytest.raises(UsageError, match=r"'digits' has no choice of parts and got 'val'; leave it out"):
        load_dataset("digits", test="val")


def test_part_that_is_no_name_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.test"):
        load_recipe("digits", ["data.test=../elsewhere"])


def test_part_enters_a_recipes_digest_only_where_it_is_set() -> None:
    digests = [load_recipe("digits", settings).digest for settings in ([], ["data.test=val"])]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "what holds 'info' is no object"),
        ('{"info": 3}', "what holds 'features' is no object"),
        ('{"info": {"features": [1]}}', "'features' is no object"),
        ('{"info": {"features": {"label": {"names": 3, "_type": "ClassLabel"}}}}', r"features\.label\.names"),
        ('{"info": {"features": {"label": {"names": ["a", 1]}}}}', r"features\.label\.names is no list"),
        ('{"info": {"features": {"label": {"names": ["a", "b", "a"]}}}}', r"label\.names has 'a' twice"),
        ('{"info": {"features": {"photo": {"_type": "Image"}}}}', r"features\.photo is no column"),
    ],
)
def test_malformed_metadata_is_refused_by_field(metadata: str, field: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path, f"{part}-{ONE}", [0, 1, 2], metadata=metadata)
    with pytest.raises(IntegrityError, match=f"metadata 'huggingface' .* 'hub:a/b' must be .*{field}"):
        load_dataset("hub:a/b", str(tmp_path))


@settings(derandomize=True, deadline=None, database=None)
@given(
    JSON.map(lambda value: json.dumps({"info": {"features": value}}).encode())
    | JSON.map(json.dumps)
    | st.binary()
)
def test_any_metadata_is_read_or_refused_in_a_sentence(metadata: str | bytes) -> None:
    try:
        assert find_columns(SCHEMA.with_metadata({"huggingface": metadata}), "hub:a/b").label == "label"
    except LineageError as error:
        assert "hub:a/b" in str(error)


def test_encoded_images_that_exceed_the_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [encoded(0), bytes(2**22)]  # 4 MiB in a file of a few kilobytes
    for part in ("train", "test"):
        table = pa.table({"image": cells, "label": [0, 1]})
        pq.write_table(table, tmp_path / f"{part}-{ONE}", compression="zstd")
    monkeypatch.setattr(parquet_size, "TOTAL_MEMORY", 2**21)
    monkeypatch.setattr(parquet, "MEMORY_LIMIT", 0)
    with pytest.raises(UsageError, match=r"must fit into memory, .* but columns image, label take .* GiB"):
        load_dataset("hub:a/b", str(tmp_path))


def test_values_that_a_dictionary_repeats_beyond_the_memory_are_refused(tmp_path: Path) -> None:
    """Half a megabyte on disk, twice the memory if each row's value is written out."""
    large = os.urandom(2**19)
    num_rows = 2 * parquet_size.TOTAL_MEMORY // len(large)

    def repeated(value: bytes) -> pa.Array:
        rows = pa.array([0] * num_rows, pa.int32())
        return pa.DictionaryArray.from_arrays(rows, pa.array([value], pa.binary()))

    for field in ("bytes", "path"):
        cells = {name: repeated(large if name == field else b"") for name in ("bytes", "path")}
        images = pa.StructArray.from_arrays(list(cells.values()), names=list(cells))
        for part in ("train", "test"):
            table = pa.table({"image": images, "label": [0] * num_rows})
            pq.write_table(table, tmp_path / f"{part}-{ONE}", store_schema=False)
        with pytest.raises(UsageError, match="columns image, label take"):
            load_dataset("hub:a/b", str(tmp_path))


def test_images_that_fit_are_counted_once_though_written_with_a_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [encoded(label) + bytes([index]) * 1000 for index in range(50) for label in (index % 2,)]
    for part in ("train", "test"):
        table = pa.table({"image": images, "label": [index % 2 for index in range(50)]})
        pq.write_table(table, tmp_path / f"{part}-{ONE}")
    monkeypatch.setattr(parquet_size, "TOTAL_MEMORY", int(1.5 * sum(map(len, images))))
    assert len(load_dataset("hub:a/b", str(tmp_path)).train) == 50


def test_images_in_subfolders_of_a_class_are_found(tmp_path: Path) -> None:
    folders(tmp_path, "train", "cat/b.png", "cat/2023/a.png", "dog/x/y/c.png")
    folders(tmp_path, "test", "cat/2023/a.png", "dog/c.png")
    (tmp_path / "train" / "dog" / "linked").symlink_to(tmp_path / "test" / "dog")
    data = load_dataset("imagefolder", str(tmp_path))
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert not isinstance(data.train, MemoryImages)
    assert data.train.read(0).shape == (3, 4, 4)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    folders(tmp_path, "train", "cat/a.png", "cat/._a.png", "cat/.ipynb_checkpoints/a.png", "dog/a.png")
    folders(tmp_path, "test", "cat/a.png", "._cat/b.png", "dog/a.png")
    data = load_dataset("imagefolder", str(tmp_path))
    assert (len(data.train), len(data.test)) == (2, 2)


def test_flat_test_folder_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders(tmp_path, "train", "cat/a.png", "dog/a.png")
    folders(tmp_path, "test", "1.png", "2.png")
    with pytest.raises(IntegrityError, match=r"must have labels, but test has none; .*, or add one"):
        load_dataset("imagefolder", str(tmp_path))
    folders(tmp_path, "val", "cat/a.png", "dog/a.png")
    with caplog.at_level(logging.WARNING):
        assert len(load_dataset("imagefolder", str(tmp_path)).test) == 2
    assert caplog.messages == ["Part 'test' of data set 'imagefolder' has no labels: 'val' is held for test."]


@pytest.mark.parametrize("files", [["1.png", "2.png"], ["cat/notes.txt", "cat/1.heic"]])
def test_message_says_what_a_folder_holds(files: list[str], tmp_path: Path) -> None:
    folders(tmp_path, "train", *files)
    folders(tmp_path, "test", "cat/1.png")
    with pytest.raises(NotFoundError, match=r"holds (0 folders and 2 files|1 folder and 0 files)") as told:
        load_dataset("imagefolder", str(tmp_path))
    assert "holds none" not in str(told.value)
