import hashlib
import importlib.util
import json
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from lineage.data import parquet
from lineage.data.cifar import CIFAR100_SUPERCLASSES, read_torchvision
from lineage.data.datasets import DATASETS, DataSet, DataSpec, MemoryImages, load_dataset
from lineage.data.hub import read_splits
from lineage.data.images import channel_statistics, memory_dataset
from lineage.errors import IntegrityError, NotFoundError, RecipeError, UsageError

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data are not at {DATA}")


def encode(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def random_images(number: int, shape: tuple[int, int, int] = (6, 5, 3), seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(number)]


def write_parquet(
    file: Path,
    images: list[np.ndarray],
    columns: dict[str, list[int]] | dict[str, list[str]],
    names: list[str] | None = None,
) -> None:
    table = pa.table({"img": [{"bytes": encode(image), "path": None} for image in images], **columns})
    if names:
        label = next(iter(columns))
        features = {"img": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=3)


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    for part, seed in (("train", 0), ("test", 1)):
        file = tmp_path / f"{part}-00000-of-00001.parquet"
        write_parquet(file, random_images(8, seed=seed), {"label": [0, 1] * 4}, ["cat", "dog"])
    return tmp_path


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for name in ("bird", "ant"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                image = random_images(1, (10 + i, 12, 3), seed=i)[0]
                Image.fromarray(image).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_digits_are_1797_stratified_in_two_parts() -> None:
    digits = load_dataset("digits")
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert isinstance(digits.train, MemoryImages)
    assert digits.train.pixels.shape == (1437, 8, 8, 1)
    assert digits.train.pixels.dtype == torch.uint8
    assert int(digits.train.pixels.max()) == 255
    assert digits.spec.input_shape == (1, 8, 8)
    assert torch.bincount(digits.test.labels).min() >= 34


def test_digits_have_the_same_digest_each_time() -> None:
    assert load_dataset("digits").spec == load_dataset("digits").spec


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_dataset_without_a_root_says_how_to_name_one(name: str) -> None:
    with pytest.raises(UsageError, match=rf"'{name}' is read from a folder.*--set data\.root=FOLDER"):
        load_dataset(name)


@pytest.mark.parametrize("name", [*sorted(set(DATASETS) - {"digits"}), "hub:owner/name"])
def test_dataset_with_a_missing_root_names_the_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=str(tmp_path / "none")):
        load_dataset(name, str(tmp_path / "none"))


@pytest.mark.parametrize("name", [*sorted(set(DATASETS) - {"digits"}), "hub:owner/name"])
def test_dataset_with_an_empty_root_says_what_layout_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"must (hold|have) .*(train-\*\.parquet|train/CLASS)"):
        load_dataset(name, str(tmp_path))


def test_dataset_of_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"Unknown dataset 'cifar1O'.*Did you mean 'cifar10'\?"):
        load_dataset("cifar1O")


def test_description_travels_through_json() -> None:
    spec = load_dataset("digits").spec
    assert DataSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.num_classes == 10


def test_description_with_a_missing_field_is_refused() -> None:
    value = load_dataset("digits").spec.to_json()
    del value["mean"]
    with pytest.raises(IntegrityError, match="field 'mean' is wrong: Field required"):
        DataSpec.from_json(value)


def test_statistics_equal_numpys() -> None:
    pixels = torch.from_numpy(np.stack(random_images(7)))
    mean, std = channel_statistics(pixels)
    scaled = pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), atol=5e-7)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), atol=5e-7)


def test_statistics_of_one_colour_do_not_divide_by_zero() -> None:
    assert channel_statistics(torch.full((2, 3, 3, 1), 255, dtype=torch.uint8)) == ((1.0,), (1.0,))


@pytest.mark.parametrize("change", ["pixel", "label", "class name", "order"])
def test_digest_changes_with_the_contents(change: str) -> None:
    pixels, labels, names = (
        torch.from_numpy(np.stack(random_images(4))),
        torch.tensor([0, 1, 0, 1]),
        ["a", "b"],
    )
    original = memory_dataset("x", MemoryImages(pixels, labels), MemoryImages(pixels, labels), names)
    changed, changed_labels = pixels.clone(), labels.clone()
    if change == "pixel":
        changed[2, 1, 1, 1] ^= 1
    elif change == "label":
        changed_labels[0] = 1
    elif change == "class name":
        names = ["a", "c"]
    else:
        changed = changed[[2, 1, 0, 3]]
    train = MemoryImages(changed, changed_labels)
    digest = memory_dataset("x", train, MemoryImages(pixels, labels), names).spec.digest
    assert digest != original.spec.digest


def test_parquet_images_of_one_size_are_held_in_memory(hub_folder: Path) -> None:
    data = load_dataset("hub:owner/pets", str(hub_folder))
    assert isinstance(data.train, MemoryImages)
    np.testing.assert_array_equal(data.train.pixels.numpy(), np.stack(random_images(8)))
    assert data.train.labels.tolist() == [0, 1] * 4
    assert data.spec.class_names == ("cat", "dog")
    assert data.spec.input_shape == (3, 6, 5)


def test_parquet_digest_is_that_of_the_contents(hub_folder: Path, tmp_path: Path) -> None:
    images, elsewhere = random_images(8), tmp_path / "elsewhere"
    for shard in range(2):
        rows = slice(4 * shard, 4 * shard + 4)
        file = elsewhere / "data" / f"train-0000{shard}-of-00002.parquet"
        write_parquet(file, images[rows], {"fine_label": [0, 1] * 2}, ["cat", "dog"])
    file = elsewhere / "data" / "validation-00000-of-00001.parquet"
    write_parquet(file, random_images(8, seed=1), {"fine_label": [0, 1] * 4}, ["cat", "dog"])
    first, second = (load_dataset("hub:a/b", str(root)).spec for root in (hub_folder, elsewhere))
    assert first == second


def test_parquet_images_of_several_sizes_are_streamed(tmp_path: Path) -> None:
    images = [random_images(1, (6 + i, 9, 3), seed=i)[0] for i in range(4)]
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-0.parquet", images, {"label": [0, 1, 1, 0]})
    data = load_dataset("hub:owner/name", str(tmp_path), image_size=32)
    assert not isinstance(data.train, MemoryImages)
    assert len(data.train) == 4
    for index, image in enumerate(images):
        np.testing.assert_array_equal(data.train.read(index).permute(1, 2, 0).numpy(), image)
    assert data.spec.input_shape == (3, 32, 32)
    assert data.spec.class_names == ("0", "1")


def test_parquet_images_beyond_the_memory_limit_are_streamed(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MEMORY_LIMIT", 100)
    assert not isinstance(load_dataset("hub:owner/name", str(hub_folder)).train, MemoryImages)


def test_parquet_grey_images_become_rgb(tmp_path: Path) -> None:
    grey = random_images(2, (4, 4, 1))
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-0.parquet", [image[:, :, 0] for image in grey], {"label": [0, 1]})
    data = load_dataset("hub:owner/name", str(tmp_path))
    assert isinstance(data.train, MemoryImages)
    np.testing.assert_array_equal(data.train.pixels.numpy(), np.stack(grey).repeat(3, axis=3))


def test_parquet_without_a_label_column_lists_its_columns(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-0.parquet", random_images(2), {"size": [0, 1], "age": [0, 1]})
    with pytest.raises(UsageError, match="label or labels, but its columns are img, size, age"):
        load_dataset("hub:owner/name", str(tmp_path))


def test_parquet_labels_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        columns = {"label": ["cat", "dog"]}
        write_parquet(tmp_path / f"{part}-0.parquet", random_images(2), columns)
    with pytest.raises(UsageError, match=r"'label' .* must hold one integer per row, but it is string"):
        load_dataset("hub:owner/name", str(tmp_path))


def test_parquet_without_labels_in_the_test_part_is_refused(hub_folder: Path) -> None:
    write_parquet(hub_folder / "test-00000-of-00001.parquet", random_images(2), {"label": [1, -1]})
    with pytest.raises(IntegrityError, match=r"must lie in 0\.\.1, but row 1 has -1"):
        load_dataset("hub:owner/name", str(hub_folder))


def test_parquet_without_a_test_part_is_refused(hub_folder: Path) -> None:
    (hub_folder / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(NotFoundError, match=r"must hold test-\*\.parquet or validation-\*\.parquet"):
        load_dataset("hub:owner/name", str(hub_folder))


def test_parquet_without_rows_is_refused(hub_folder: Path) -> None:
    write_parquet(hub_folder / "train-00000-of-00001.parquet", random_images(2), {"label": [0, 1]})
    table = pq.read_table(hub_folder / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 0), hub_folder / "train-00000-of-00001.parquet")
    with pytest.raises(UsageError, match="must have images, but one has no row"):
        load_dataset("hub:owner/name", str(hub_folder))


def test_parquet_that_is_no_parquet_is_refused(hub_folder: Path) -> None:
    (hub_folder / "train-00000-of-00001.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(IntegrityError, match="must be readable, but are not"):
        load_dataset("hub:owner/name", str(hub_folder))


def test_parquet_image_that_does_not_decode_is_named(hub_folder: Path) -> None:
    table = pa.table({"img": [{"bytes": b"no image", "path": None}], "label": [0]})
    pq.write_table(table, hub_folder / "test-00000-of-00001.parquet")
    with pytest.raises(
        IntegrityError,
        match=r"Row 0 of test-0.*\.parquet \(class 'cat'\) must be an image",
    ):
        load_dataset("hub:owner/name", str(hub_folder))


def test_parquet_image_stored_by_path_is_refused(hub_folder: Path) -> None:
    image = pa.array(
        [{"bytes": None, "path": "a.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"img": image, "label": [0]}), hub_folder / "test-00000-of-00001.parquet")
    with pytest.raises(UsageError, match=r"must be stored as bytes, but 1 rows name a file"):
        load_dataset("hub:owner/name", str(hub_folder))


def test_parquet_in_several_subfolders_is_refused(tmp_path: Path) -> None:
    for config in ("small", "large"):
        write_parquet(tmp_path / config / "train-0.parquet", random_images(1), {"label": [0]})
    with pytest.raises(UsageError, match=r"but holds large, small; set data.root to one of them"):
        load_dataset("hub:owner/name", str(tmp_path))


def test_parquet_class_in_two_superclasses_is_refused(tmp_path: Path) -> None:
    columns = {"fine_label": [0, 1, 0], "coarse_label": [0, 0, 1]}
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-0.parquet", random_images(3), columns)
    with pytest.raises(IntegrityError, match=r"must lie in one superclass, but column 'coarse_label'"):
        load_dataset("cifar100", str(tmp_path))


def test_hub_name_without_an_owner_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must be named hub:OWNER/NAME, but got 'hub:mnist'"):
        load_dataset("hub:mnist")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the extra 'hub' is installed")
def test_hub_names_the_missing_extra() -> None:
    with pytest.raises(UsageError, match=r"needs the extra 'hub'.*pip install '\.\[hub\]'"):
        load_dataset("hub:owner/name")


def test_hub_splits_are_read_through_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    for number, sizes in (("one", [8, 8]), ("several", [8, 9])):
        pixels = [random_images(1, (size, 7, 3), seed=size)[0] for size in sizes]
        columns = {"image": [Image.fromarray(image) for image in pixels], "label": [0, 1]}
        split = datasets.Dataset.from_dict(columns, features=features)
        data = read_splits("hub:owner/name", datasets.DatasetDict(train=split, validation=split), 16)
        assert data.spec.class_names == ("cat", "dog")
        assert isinstance(data.train, MemoryImages) == (number == "one")
        assert len(data.test) == 2
    with pytest.raises(UsageError, match=r"must have a split train and one of test, .*, but it has train"):
        read_splits("hub:owner/name", datasets.DatasetDict(train=split), 16)


@needs_data
def test_cifar10_is_read_from_the_hubs_layout() -> None:
    data = load_dataset("cifar10", str(DATA / "cifar10"))
    assert isinstance(data.train, MemoryImages)
    assert data.train.pixels.shape == (10_000, 32, 32, 3)
    assert data.spec.class_names[0] == "airplane"
    assert torch.bincount(data.train.labels).tolist() == [1000] * 10
    table = pq.read_table(DATA / "cifar10" / "test-00000-of-00001.parquet").slice(1234, 1).to_pylist()[0]
    expected = np.asarray(Image.open(BytesIO(table["img"]["bytes"])))
    np.testing.assert_array_equal(data.test.pixels[1234].numpy(), expected)
    assert int(data.test.labels[1234]) == table["label"]


@needs_data
def test_cifar100_superclasses_are_those_of_the_data() -> None:
    labels = pq.read_table(
        DATA / "cifar100" / "train-00000-of-00001.parquet", columns=["fine_label", "coarse_label"]
    )
    pairs = {(fine.as_py(), coarse.as_py()) for fine, coarse in zip(*labels.columns, strict=True)}
    assert pairs == set(enumerate(CIFAR100_SUPERCLASSES))


def write_torchvision(root: Path) -> type[CIFAR10]:
    """A tiny set in torchvision's layout and the class that knows its checksums."""

    def dump(name: str, value: object) -> list[str]:
        data = pickle.dumps(value)
        (root / "tiny" / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    (root / "tiny").mkdir()
    pixels = np.stack(random_images(4, (32, 32, 3)))
    flat = pixels.transpose(0, 3, 1, 2).reshape(4, -1)
    train = dump("train", {"data": flat, "fine_labels": [0, 1, 2, 1]})
    test = dump("test", {"data": flat[:2], "fine_labels": [2, 0]})
    meta_md5 = dump("meta", {"fine_label_names": ["a", "b", "c"]})[1]

    class Tiny(CIFAR100):
        base_folder = "tiny"
        train_list = [train]  # noqa: RUF012
        test_list = [test]  # noqa: RUF012
        meta = {"filename": "meta", "key": "fine_label_names", "md5": meta_md5}  # noqa: RUF012

    return Tiny


def test_torchvisions_layout_is_read(tmp_path: Path) -> None:
    data: DataSet = read_torchvision("tiny", write_torchvision(tmp_path), tmp_path, False, (0, 0, 1))
    assert isinstance(data.train, MemoryImages)
    np.testing.assert_array_equal(data.train.pixels.numpy(), np.stack(random_images(4, (32, 32, 3))))
    assert data.test.labels.tolist() == [2, 0]
    assert data.spec.class_names == ("a", "b", "c")
    assert data.spec.superclasses == (0, 0, 1)


def test_torchvisions_pickle_is_not_opened_when_its_checksum_is_wrong(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "opened",)

    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps(Touch()))
    with pytest.raises(IntegrityError, match="torchvision lists, but one is missing or altered"):
        load_dataset("cifar100", str(tmp_path))
    assert not (tmp_path / "opened").exists()


def test_torchvisions_layout_that_cannot_be_fetched_names_its_address(tmp_path: Path) -> None:
    class Nowhere(CIFAR100):
        url = "file:///nowhere/cifar.tar.gz"

    with pytest.raises(NotFoundError, match=r"must be fetched from file:///nowhere/cifar\.tar\.gz to"):
        read_torchvision("nowhere", Nowhere, tmp_path, True, None)


def test_cifar_prefers_parquet_over_a_download(hub_folder: Path) -> None:
    with pytest.raises(IntegrityError, match=r"'cifar10' must have 10 classes, but .* have 2, such as 'cat'"):
        load_dataset("cifar10", str(hub_folder), download=True)


def test_image_folder_is_streamed_in_sorted_order(image_folder: Path) -> None:
    data = load_dataset("imagefolder", str(image_folder), image_size=16)
    assert data.spec.class_names == ("ant", "bird")
    assert data.spec.input_shape == (3, 16, 16)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not isinstance(data.train, MemoryImages)
    expected = random_images(1, (11, 12, 3), seed=1)[0]
    np.testing.assert_array_equal(data.train.read(4).permute(1, 2, 0).numpy(), expected)


def test_image_folder_digest_does_not_depend_on_the_path_or_the_test_folders_name(image_folder: Path) -> None:
    first = load_dataset("imagefolder", str(image_folder)).spec
    (image_folder / "val").rename(image_folder / "test")
    moved = image_folder.rename(image_folder.with_name("moved"))
    assert load_dataset("imagefolder", str(moved)).spec == first
    (moved / "train" / "ant" / "1.png").unlink()
    assert load_dataset("imagefolder", str(moved)).spec.digest != first.digest


def test_image_folder_digest_covers_names_and_sizes_but_no_contents(image_folder: Path) -> None:
    def digest() -> str:
        return load_dataset("imagefolder", str(image_folder)).spec.digest

    first, file = digest(), image_folder / "val" / "ant" / "0.png"
    contents = file.read_bytes()
    file.write_bytes(contents[:-20] + bytes([contents[-20] ^ 1]) + contents[-19:])
    assert digest() == first
    file.write_bytes(contents + b"\0")
    grown = digest()
    assert grown != first
    file.write_bytes(contents)
    assert digest() == first
    file.rename(file.with_name("9.png"))
    assert digest() not in {first, grown}


def test_image_folder_ignores_what_is_no_image(image_folder: Path) -> None:
    (image_folder / "train" / "ant" / "notes.txt").write_text("six legs")
    (image_folder / "train" / ".cache").mkdir()
    assert len(load_dataset("imagefolder", str(image_folder)).train) == 6


def test_imagenet_reads_train_and_val(image_folder: Path) -> None:
    data = load_dataset("imagenet", str(image_folder))
    assert (len(data.train), len(data.test)) == (6, 6)
    assert data.spec.mean == (0.485, 0.456, 0.406)


def test_image_folder_with_a_class_unknown_in_training_is_refused(image_folder: Path) -> None:
    (image_folder / "val" / "birds").mkdir()
    with pytest.raises(UsageError, match=r"'birds' is not; remove it\. Did you mean 'bird'\?"):
        load_dataset("imagefolder", str(image_folder))


@pytest.mark.parametrize("part", ["train", "val"])
def test_image_folder_without_classes_or_images_is_refused(part: str, image_folder: Path) -> None:
    (image_folder / part).rename(image_folder / "elsewhere")
    (image_folder / part).mkdir()
    with pytest.raises(NotFoundError, match=f"{part} must hold .*is empty; "):
        load_dataset("imagefolder", str(image_folder))


def test_image_file_that_does_not_decode_is_named(image_folder: Path) -> None:
    (image_folder / "train" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(IntegrityError, match=r"ant/0\.png \(class 'ant'\) must be an image that decodes"):
        load_dataset("imagefolder", str(image_folder))
