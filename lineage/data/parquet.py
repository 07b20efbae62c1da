"""Reader of the Hugging Face Hub's Parquet layout for image classification.

A folder holds ``train-*.parquet`` and ``test-*.parquet`` (or ``validation-*.parquet``). One column holds
encoded images (binary, or a struct with the field ``bytes``), others hold integer labels; class names are in
the ``huggingface`` metadata of the schema. Images are decoded as RGB.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pyarrow import dataset as arrow
from torch import Tensor

from lineage.data.decoding import decode_rgb
from lineage.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataSet,
    DataSpec,
    MemoryImages,
    memory_dataset,
    require_labels,
)
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import first_line

MEMORY_LIMIT = 4 * 2**30
"""Largest size in bytes of the decoded training or test images that are held in memory, not streamed."""

_LABEL_COLUMNS = ("fine_label", "label", "labels")
_ROWS_PER_BATCH = 1024


@dataclass(frozen=True)
class Columns:
    """Columns of a table by their role.

    Attributes:
        image: Column of the encoded images.
        label: Column of the classes.
        superclass: Column of the superclasses (``coarse_label``), or None.
        class_names: Class names from the metadata, or None if it has none.
    """

    image: str
    label: str
    superclass: str | None
    class_names: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Streamed images whose encoded bytes are held in Arrow memory, decoded on reading.

    Attributes:
        encoded: Encoded images, N binary values.
        labels: Class of each image, int64, shape (N,).
    """

    encoded: pa.ChunkedArray
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        """Decode one image to uint8, shape (3, H, W)."""
        return torch.from_numpy(_decode(self.encoded[index], index)).permute(2, 0, 1)


def find_parquet(root: Path) -> Path | None:
    """Return the folder with ``train-*.parquet``: ``root``, ``root/data``, or the only such subfolder.

    Raises:
        UsageError: If several subfolders have such files.
    """
    subfolders = sorted(path for path in root.iterdir() if path.is_dir())
    found = [folder for folder in (root, root / "data", *subfolders) if any(folder.glob("train-*.parquet"))]
    if not found:
        return None
    if found[0] not in (root, root / "data") and len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise UsageError(
            f"{root} must hold one Parquet data set, but holds {names}; set data.root to one of them."
        )
    return found[0]


def read_parquet(name: str, folder: Path, image_size: int) -> DataSet:
    """Read a data set from a folder of Parquet files, such as ``find_parquet`` returns.

    Args:
        name: Name of the data set.
        folder: Folder with the Parquet files.
        image_size: Edge of the network's input in pixels, for streamed images.

    Raises:
        NotFoundError: If there is no test part.
        UsageError: If the column of images or of labels is missing.
        IntegrityError: If a file, an image or a label cannot be read.
    """
    train = sorted(folder.glob("train-*.parquet"))
    test = sorted(folder.glob("test-*.parquet")) or sorted(folder.glob("validation-*.parquet"))
    if not test:
        raise NotFoundError(
            f"{folder} must hold test-*.parquet or validation-*.parquet beside its training part, but holds "
            "neither; add the test part."
        )
    try:
        parts = [arrow.dataset([str(file) for file in files], format="parquet") for files in (train, test)]
        return read_arrow(name, parts[0], parts[1], image_size)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(
            f"The Parquet files in {folder} must be readable, but are not: {first_line(error)}; replace them."
        ) from error


def read_arrow(name: str, train: arrow.Dataset, test: arrow.Dataset, image_size: int) -> DataSet:
    """Build a data set from Arrow data with the Hub's columns.

    Images of one size are held in memory, up to ``MEMORY_LIMIT``, as ``memory_dataset`` describes. Others are
    streamed: mean and standard deviation are then ImageNet's, and the digest covers class names, labels and
    the length in bytes of each encoded image.

    Args:
        name: Name of the data set.
        train: Training part.
        test: Test part.
        image_size: Edge of the network's input in pixels, for streamed images.
    """
    columns = find_columns(train.schema, name)
    labels, test_labels = (_integers(part, columns.label, name) for part in (train, test))
    class_names = columns.class_names or tuple(map(str, range(int(labels.max()) + 1)))
    for part, values in (("training", labels), ("test", test_labels)):
        require_labels(values, len(class_names), f"the {part} part of '{name}'")
    superclasses = _superclasses(train, columns, labels, len(class_names), name)
    shape = _first_shape(train, columns.image)
    pixels = _decode_all(train, columns.image, shape)
    test_pixels = None if pixels is None else _decode_all(test, columns.image, shape)
    if pixels is not None and test_pixels is not None:
        memory = MemoryImages(pixels, labels), MemoryImages(test_pixels, test_labels)
        return memory_dataset(name, *memory, class_names, superclasses)
    streamed = [
        EncodedImages(_encoded(part.to_table(columns=[columns.image])[0]), values)
        for part, values in ((train, labels), (test, test_labels))
    ]
    input_shape = (3, image_size, image_size)
    digest = _streamed_digest(class_names, streamed)
    spec = DataSpec(name, class_names, superclasses, IMAGENET_MEAN, IMAGENET_STD, input_shape, digest)
    return DataSet(streamed[0], streamed[1], spec)


def find_columns(schema: pa.Schema, name: str) -> Columns:
    """Find the columns of images and labels by the Hub's metadata, or else by name and type.

    Raises:
        UsageError: If there is no column of images, or not exactly one candidate for the labels.
    """
    features = _features(schema)
    images = _columns_of_type(features, "Image") or [
        field.name for field in schema if _can_hold_images(field.type)
    ]
    classes = _columns_of_type(features, "ClassLabel") or [
        f.name for f in schema if pa.types.is_integer(f.type)
    ]
    only = classes[0] if len(classes) == 1 else None
    label = next((column for column in _LABEL_COLUMNS if column in schema.names), only)
    if not images or label is None:
        raise UsageError(
            f"Data set '{name}' must have a column of encoded images and one integer column, or one named "
            f"{' or '.join(_LABEL_COLUMNS)}, but its columns are {', '.join(schema.names)}; "
            "rename or drop some."
        )
    names = features.get(label, {}).get("names")
    superclass = "coarse_label" if label == "fine_label" and "coarse_label" in schema.names else None
    return Columns(images[0], label, superclass, tuple(names) if names else None)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the Hub's description of each column; empty if the schema has none."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    return {column: feature for column, feature in features.items() if isinstance(feature, dict)}


def _columns_of_type(features: dict[str, dict[str, Any]], kind: str) -> list[str]:
    return [column for column, feature in features.items() if feature.get("_type") == kind]


def _can_hold_images(kind: pa.DataType) -> bool:
    """Return whether a column of this type can hold encoded images."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _integers(part: arrow.Dataset, column: str, name: str) -> Tensor:
    """Read a column as int64, shape (N,), with N ≥ 1."""
    values = part.to_table(columns=[column])[column]
    if len(values) == 0:
        raise UsageError(
            f"Both parts of data set '{name}' must have images, but one has no row; choose another data set."
        )
    if not pa.types.is_integer(values.type) or values.null_count:
        raise UsageError(
            f"Column '{column}' of data set '{name}' must hold one integer per row, but it is "
            f"{values.type} with {values.null_count} empty rows; number the classes from 0."
        )
    return torch.from_numpy(values.cast(pa.int64()).to_numpy().copy())


def _superclasses(
    train: arrow.Dataset, columns: Columns, labels: Tensor, num_classes: int, name: str
) -> tuple[int, ...] | None:
    """Return the superclass of each class, as the training images pair them; None without such a column."""
    if columns.superclass is None:
        return None
    coarse = _integers(train, columns.superclass, name)
    superclasses = torch.full((num_classes,), -1)
    superclasses[labels] = coarse
    if not torch.equal(superclasses[labels], coarse) or (superclasses < 0).any():
        raise IntegrityError(
            f"Each class of data set '{name}' must lie in one superclass, but column "
            f"'{columns.superclass}' gives some class of '{columns.label}' several or none; correct it."
        )
    return tuple(superclasses.tolist())


def _encoded(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the encoded images of a column, whose type is binary or a struct with the field ``bytes``."""
    encoded = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    if encoded.null_count:
        raise UsageError(
            f"Each image must be stored as bytes, but {encoded.null_count} rows name a file instead; "
            "save the data set with its images embedded."
        )
    return encoded


def _batches(part: arrow.Dataset, column: str) -> Iterator[pa.Array]:
    """Yield the encoded images in order, in batches of ``_ROWS_PER_BATCH``."""
    for batch in part.to_batches(
        columns=[column], batch_size=_ROWS_PER_BATCH, batch_readahead=2, fragment_readahead=1
    ):
        yield _encoded(batch.column(0))


def _first_shape(part: arrow.Dataset, column: str) -> tuple[int, ...]:
    """Return the shape (H, W, 3) of the first image."""
    first = _encoded(part.head(1, columns=[column])[column])
    return _decode(first[0], 0).shape


def _decode_all(part: arrow.Dataset, column: str, shape: tuple[int, ...]) -> Tensor | None:
    """Decode all images to uint8, shape (N, H, W, 3); None if shapes differ or exceed ``MEMORY_LIMIT``."""
    num_images = part.count_rows()
    if num_images * math.prod(shape) > MEMORY_LIMIT:
        return None
    pixels = np.empty((num_images, *shape), dtype=np.uint8)
    row = 0
    for encoded in _batches(part, column):
        for value in encoded:
            image = _decode(value, row)
            if image.shape != shape:
                return None
            pixels[row] = image
            row += 1
    pa.default_memory_pool().release_unused()  # Arrow would keep the encoded batches allocated
    return torch.from_numpy(pixels)


def _decode(encoded: pa.Scalar, row: int) -> NDArray[np.uint8]:
    """Decode one image to shape (H, W, 3)."""
    return decode_rgb(BytesIO(encoded.as_buffer()), f"Row {row}")


def _streamed_digest(class_names: tuple[str, ...], parts: list[EncodedImages]) -> str:
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for part in parts:
        lengths = pc.binary_length(part.encoded).cast(pa.int64()).to_numpy()
        digest.update(part.labels.numpy().data)
        digest.update(np.ascontiguousarray(lengths).data)
    return digest.hexdigest()
