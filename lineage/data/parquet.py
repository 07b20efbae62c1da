"""Reader of the Hugging Face Hub's Parquet layout for image classification.

A folder holds ``train-*.parquet`` and ``test-*.parquet`` (or ``validation-*.parquet``). One column holds
encoded images (binary, or a struct with the field ``bytes``), others hold integer labels; class names are in
the ``huggingface`` metadata of the schema. Images are decoded as RGB.
"""

import glob
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pyarrow import dataset as arrow
from torch import Tensor

from lineage.data.checks import check_images
from lineage.data.columns import (
    Columns,
    RowNames,
    find_columns,
    has_labels,
    name_rows,
    read_integers,
    read_labels,
)
from lineage.data.decoding import check_image, decode_rgb
from lineage.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataSet,
    DataSpec,
    MemoryImages,
    memory_dataset,
)
from lineage.data.parquet_size import require_memory
from lineage.data.parts import TEST_PARTS, choose_test_part
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import first_line

MEMORY_LIMIT = 4 * 2**30
"""Largest size in bytes of the decoded training or test images that are held in memory, not streamed."""

TRAIN = "train"
_SHARD = re.compile(r"-(\d+)-of-(\d+)")
_ROWS_PER_BATCH = 1024


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Streamed images whose encoded bytes are held in Arrow memory, decoded on reading.

    Attributes:
        encoded: Encoded images, N binary values.
        labels: Class of each image, int64, shape (N,).
        named: Names of the rows in error messages.
    """

    encoded: pa.ChunkedArray
    labels: Tensor
    named: RowNames

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        """Decode one image to uint8, shape (3, H, W)."""
        return torch.from_numpy(_decode(self.encoded[index], self.named(index))).permute(2, 0, 1)

    def check(self, index: int) -> None:
        """Check one image without decoding it; see ``check_image``."""
        check_image(BytesIO(self.encoded[index].as_buffer()), self.named(index))


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


def read_parquet(name: str, folder: Path, image_size: int, test: str | None = None) -> DataSet:
    """Read a data set from a folder of Parquet files, such as ``find_parquet`` returns.

    Args:
        name: Name of the data set.
        folder: Folder with the Parquet files.
        image_size: Edge of the network's input in pixels, for streamed images.
        test: Part to hold for test; None takes the first of ``TEST_PARTS`` that has labels.

    Raises:
        NotFoundError: If there is no test part, or a shard is missing.
        UsageError: If the column of images or of labels is missing.
        IntegrityError: If a file, an image or a label cannot be read.
    """
    names = TEST_PARTS if test is None else (*TEST_PARTS, test)
    available = [part for part in dict.fromkeys(names) if part != TRAIN and any(_shards(folder, part))]
    if not available:
        raise NotFoundError(
            f"{folder} must hold test-*.parquet or validation-*.parquet beside its training part, but holds "
            "neither; add the test part."
        )
    try:
        chosen = choose_test_part(name, available, test, lambda part: has_labels(_open(folder, part), name))
        return read_arrow(name, _open(folder, TRAIN), _open(folder, chosen), image_size)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(
            f"The Parquet files in {folder} must be readable, but are not: {first_line(error)}; replace them."
        ) from error


def _open(folder: Path, part: str) -> arrow.Dataset:
    """Open one part, whose shards must be complete."""
    files = _shards(folder, part)
    _require_complete(folder, part, [file.name for file in files])
    return arrow.dataset([str(file) for file in files], format="parquet")


def _shards(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"{glob.escape(part)}-*.parquet"))


def _require_complete(folder: Path, part: str, files: list[str]) -> None:
    """Check the numbers in names such as ``train-00000-of-00003.parquet``; other names have none."""
    numbers = [tuple(map(int, match.groups())) for file in files if (match := _SHARD.search(file))]
    totals = sorted({total for _, total in numbers})
    if not totals:
        return
    found = [number for number, _ in numbers]
    missing = sorted(set(range(totals[0])) - set(found))
    if len(totals) > 1 or len(files) != len(set(found)):
        raise IntegrityError(
            f"{folder} must hold one set of {part}-*.parquet, but holds a mixture: {', '.join(files[:4])}"
            f"{' …' if len(files) > 4 else ''}; remove those that do not belong together."
        )
    if missing:
        raise NotFoundError(
            f"{folder} must hold {part}-00000-of-{totals[0]:05} to {part}-{totals[0] - 1:05}-of-"
            f"{totals[0]:05}, but lacks {len(missing)} of them, the first number {missing[0]}; fetch "
            "it again."
        )


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

    Raises:
        UsageError: If the columns are larger than this machine's memory.
    """
    columns, test_columns = (find_columns(part.schema, name) for part in (train, test))
    for part, found in ((train, columns), (test, test_columns)):
        require_memory(
            part, [column for column in (found.image, found.label, found.superclass) if column], name
        )
    labels, class_names = read_labels(train, "the training part", None, name)
    test_labels, _ = read_labels(test, "the test part", class_names, name)
    superclasses = _superclasses(train, columns, labels, len(class_names), name)
    named = name_rows(train, labels, class_names)
    test_named = name_rows(test, test_labels, class_names)
    shape = _first_shape(train, columns.image, named)
    pixels = _decode_all(train, columns.image, shape, named)
    test_pixels = None if pixels is None else _decode_all(test, test_columns.image, shape, test_named)
    if pixels is not None and test_pixels is not None:
        memory = MemoryImages(pixels, labels), MemoryImages(test_pixels, test_labels)
        return memory_dataset(name, *memory, class_names, superclasses)
    streamed = [
        EncodedImages(_encoded(part.to_table(columns=[column])[0]), rows.labels, rows)
        for part, column, rows in ((train, columns.image, named), (test, test_columns.image, test_named))
    ]
    check_images(*streamed)
    input_shape = (3, image_size, image_size)
    digest = _streamed_digest(class_names, streamed)
    spec = DataSpec(name, class_names, superclasses, IMAGENET_MEAN, IMAGENET_STD, input_shape, digest)
    return DataSet(streamed[0], streamed[1], spec)


def _superclasses(
    train: arrow.Dataset, columns: Columns, labels: Tensor, num_classes: int, name: str
) -> tuple[int, ...] | None:
    """Return the superclass of each class, as the training images pair them; None without such a column."""
    if columns.superclass is None:
        return None
    coarse = read_integers(train, columns.superclass, name)
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


def _first_shape(part: arrow.Dataset, column: str, named: RowNames) -> tuple[int, ...]:
    """Return the shape (H, W, 3) of the first image."""
    first = _encoded(part.head(1, columns=[column])[column])
    return _decode(first[0], named(0)).shape


def _decode_all(part: arrow.Dataset, column: str, shape: tuple[int, ...], named: RowNames) -> Tensor | None:
    """Decode all images to uint8, shape (N, H, W, 3); None if shapes differ or exceed ``MEMORY_LIMIT``."""
    num_images = part.count_rows()
    if num_images * math.prod(shape) > MEMORY_LIMIT:
        return None
    pixels = np.empty((num_images, *shape), dtype=np.uint8)
    row = 0
    for encoded in _batches(part, column):
        for value in encoded:
            image = _decode(value, named(row))
            if image.shape != shape:
                return None
            pixels[row] = image
            row += 1
    pa.default_memory_pool().release_unused()  # Arrow would keep the encoded batches allocated
    return torch.from_numpy(pixels)


def _decode(encoded: pa.Scalar, where: str) -> NDArray[np.uint8]:
    """Decode one image to shape (H, W, 3)."""
    return decode_rgb(BytesIO(encoded.as_buffer()), where)


def _streamed_digest(class_names: tuple[str, ...], parts: list[EncodedImages]) -> str:
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for part in parts:
        lengths = pc.binary_length(part.encoded).cast(pa.int64()).to_numpy()
        digest.update(part.labels.numpy().data)
        digest.update(np.ascontiguousarray(lengths).data)
    return digest.hexdigest()
