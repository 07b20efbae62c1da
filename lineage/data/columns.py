"""Columns of Arrow data with the Hugging Face Hub's metadata: images, labels and names of classes."""

import json
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import dataset as arrow
from torch import Tensor

from lineage.data.images import require_labels
from lineage.data.parquet_size import require_memory
from lineage.errors import IntegrityError, UsageError, suggestion

_LABEL_COLUMNS = ("fine_label", "label", "labels")


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
class RowNames:
    """Names of a part's rows in error messages: row, file and class.

    Attributes:
        files: Names of the part's files; empty where it is no file.
        starts: Number of each file's first row, ascending.
        labels: Class of each row, int64, shape (N,).
        class_names: Names of the classes.
    """

    files: tuple[str, ...]
    starts: tuple[int, ...]
    labels: Tensor
    class_names: tuple[str, ...]

    def __call__(self, row: int) -> str:
        """Return the name of a row, such as ``Row 3 of train-0.parquet (class 'cat')``."""
        number = bisect_right(self.starts, row) - 1
        file = f" of {self.files[number]}" if self.files[number] else ""
        class_name = self.class_names[int(self.labels[row])]
        return f"Row {row - self.starts[number]}{file} (class '{class_name}')"


def name_rows(part: arrow.Dataset, labels: Tensor, class_names: tuple[str, ...]) -> RowNames:
    """Return the names of a part's rows."""
    fragments = list(part.get_fragments())
    files = tuple(PurePath(getattr(fragment, "path", "")).name for fragment in fragments)
    counts = (fragment.count_rows() for fragment in fragments[:-1])
    return RowNames(files, tuple(accumulate(counts, initial=0)), labels, class_names)


def find_columns(schema: pa.Schema, name: str) -> Columns:
    """Find the columns of images and labels by the Hub's metadata, or else by name and type.

    Raises:
        UsageError: If there is no column of images, or not exactly one candidate for the labels.
        IntegrityError: If the metadata is malformed.
    """
    features = _features(schema, name)
    images = _columns_of_type(features, "Image") or [
        field.name for field in schema if _can_hold_images(field.type)
    ]
    classes = _columns_of_type(features, "ClassLabel") or [
        f.name for f in schema if pa.types.is_integer(f.type)
    ]
    only = classes[0] if len(classes) == 1 else None
    label = next((column for column in _LABEL_COLUMNS if column in schema.names), only)
    absent = [column for column in (*images[:1], label) if column not in (None, *schema.names)]
    if absent:
        raise _malformed(name, f"features.{absent[0]} is no column")
    if not images or label is None:
        raise UsageError(
            f"Data set '{name}' must have a column of encoded images and one integer column, or one named "
            f"{' or '.join(_LABEL_COLUMNS)}, but its columns are {', '.join(schema.names)}; "
            "rename or drop some."
        )
    superclass = "coarse_label" if label == "fine_label" and "coarse_label" in schema.names else None
    return Columns(images[0], label, superclass, _class_names(features.get(label, {}), label, name))


def read_integers(part: arrow.Dataset | arrow.Fragment, column: str, name: str) -> Tensor:
    """Read a column as int64, shape (N,)."""
    values = part.to_table(columns=[column])[column]
    if not pa.types.is_integer(values.type) or values.null_count:
        raise UsageError(
            f"Column '{column}' of data set '{name}' must hold one integer per row, but it is "
            f"{values.type} with {values.null_count} empty rows; number the classes from 0."
        )
    return torch.from_numpy(values.cast(pa.int64()).to_numpy().copy())


def read_labels(
    part: arrow.Dataset, title: str, class_names: tuple[str, ...] | None, name: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Read the classes of one part, numbered by ``class_names``, which each file may order in its own way.

    Args:
        part: Training or test part.
        title: Name of the part in error messages.
        class_names: Names of the classes; None takes those of the part's first file, or else its numbers.
        name: Name of the data set in error messages.

    Returns:
        Labels, int64, shape (N,), and the names of the classes.

    Raises:
        UsageError: If the part has no row or no integers, or names a class that ``class_names`` lacks.
        IntegrityError: If a label lies outside the classes.
    """
    class_names = class_names or find_columns(part.schema, name).class_names
    read = []
    for fragment in part.get_fragments():
        columns = find_columns(fragment.physical_schema, name)
        labels = read_integers(fragment, columns.label, name)
        if class_names and columns.class_names and columns.class_names != class_names:
            require_labels(labels, len(columns.class_names), f"{title} of '{name}'")
            labels = _renumber(labels, columns.class_names, class_names, f"{title} of '{name}'")
        read.append(labels)
    labels = torch.cat(read)
    if len(labels) == 0:
        raise UsageError(
            f"Both parts of data set '{name}' must have images, but one has no row; choose another data set."
        )
    class_names = class_names or tuple(map(str, range(int(labels.max()) + 1)))
    return require_labels(labels, len(class_names), f"{title} of '{name}'"), class_names


def has_labels(part: arrow.Dataset, name: str) -> bool:
    """Return whether some row of a part has a class: the Hub numbers rows without one -1."""
    features = _features(part.schema, name)
    if not {*_LABEL_COLUMNS, *_columns_of_type(features, "ClassLabel")} & {*part.schema.names}:
        return True  # named otherwise, or not at all: `find_columns` tells
    column = find_columns(part.schema, name).label
    require_memory(part, [column], name)
    values = part.to_table(columns=[column])[column].drop_null()
    if part.count_rows() == 0 or not pa.types.is_integer(values.type):
        return True  # a fault of another kind, which `read_labels` tells
    return bool(pc.any(pc.not_equal(values, -1)).as_py())


def _renumber(labels: Tensor, own: tuple[str, ...], names: tuple[str, ...], where: str) -> Tensor:
    """Renumber labels from the order of ``own`` to that of ``names``."""
    numbers = {name: number for number, name in enumerate(names)}
    renumbered = torch.tensor([numbers.get(name, -1) for name in own])[labels]
    if (renumbered < 0).any():
        unknown = own[int(labels[renumbered < 0][0])]
        raise UsageError(
            f"Each class of {where} must also be one of the training part's {len(names)}, but '{unknown}' is "
            f"not; correct the names or remove its images.{suggestion(unknown, names)}"
        )
    return renumbered


def _class_names(feature: dict[str, Any], label: str, name: str) -> tuple[str, ...] | None:
    """Return the class names of a column's description; None if it has none."""
    names = feature.get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise _malformed(name, f"features.{label}.names is no list of texts")
    twice = next((item for item, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise _malformed(name, f"features.{label}.names has '{twice}' twice")
    return tuple(names) or None


def _features(schema: pa.Schema, name: str) -> dict[str, dict[str, Any]]:
    """Return the Hub's description of each column; empty if the schema has none."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError) as error:
        raise _malformed(name, "it is no JSON") from error
    for key in ("info", "features"):
        if not isinstance(found, dict):
            raise _malformed(name, f"what holds '{key}' is no object")
        found = found.get(key) or {}
    if not isinstance(found, dict):
        raise _malformed(name, "'features' is no object")
    return {column: feature for column, feature in found.items() if isinstance(feature, dict)}


def _malformed(name: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"The metadata 'huggingface' in the Parquet files of '{name}' must be what the Hub writes, but "
        f"{reason}; replace the files or remove their metadata."
    )


def _columns_of_type(features: dict[str, dict[str, Any]], kind: str) -> list[str]:
    return [column for column, feature in features.items() if feature.get("_type") == kind]


def _can_hold_images(kind: pa.DataType) -> bool:
    """Return whether a column of this type can hold encoded images."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
