"""Memory that Parquet columns take when they are read, known before they are."""

import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset as arrow
from pyarrow import parquet

from lineage.errors import UsageError

TOTAL_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""Memory of this machine in bytes."""

_BYTES_PER_ROW = 8
_ROWS_PER_BATCH = 1024
_DICTIONARY = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}


def require_memory(part: arrow.Dataset, columns: list[str], name: str) -> None:
    """Check, before columns are read, that they fit into this machine's memory.

    A small file may state many rows, or repeat one large value in all of them by a dictionary: its own size
    and the sizes that it states say little.

    Args:
        part: Part of a data set.
        columns: Columns that will be read, each with all its fields.
        name: Name of the data set in error messages.

    Raises:
        UsageError: If they are larger than the memory.
    """
    size = sum(_size(fragment, columns) for fragment in part.get_fragments())
    if size > TOTAL_MEMORY:
        raise UsageError(
            f"The images and labels of '{name}' must fit into memory, {TOTAL_MEMORY / 2**30:.1f} GiB, but"
            f" columns {', '.join(columns)} take {size / 2**30:.1f} GiB; use a smaller set, or an image"
            " folder."
        )


def _size(fragment: arrow.Fragment, columns: list[str]) -> int:
    """Return the bytes that columns of one file take in memory."""
    metadata: Any = getattr(fragment, "metadata", None)  # None: memory-mapped by `datasets`
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups if metadata else 0)]
    stated: dict[str, int] = {}
    may_repeat: set[str] = set()
    for group in groups:
        for chunk in (group.column(index) for index in range(group.num_columns)):
            leaf, size = chunk.path_in_schema, chunk.total_uncompressed_size
            if leaf.partition(".")[0] in columns:
                stated[leaf] = stated.get(leaf, 0) + size + chunk.num_values * _BYTES_PER_ROW
                if chunk.num_values * size > TOTAL_MEMORY and _DICTIONARY.intersection(chunk.encodings):
                    may_repeat.add(leaf)
    if sum(stated.values()) > TOTAL_MEMORY:
        return sum(stated.values())
    return sum(
        max(size, _size_of_values(fragment, leaf)) if leaf in may_repeat else size
        for leaf, size in stated.items()
    )


def _size_of_values(fragment: arrow.Fragment, leaf: str) -> int:
    """Return the bytes of all values of a column of texts or bytes, read as a dictionary with its indices."""
    size = 0
    with parquet.ParquetFile(fragment.path, read_dictionary=[leaf]) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=[leaf]):
            values = batch.column(0)
            for field in leaf.split(".")[1:]:
                values = pc.struct_field(values, field)
            if pa.types.is_dictionary(values.type):
                lengths = pc.binary_length(values.dictionary)
                size += pc.sum(lengths.take(values.indices).cast(pa.int64())).as_py() or 0
    return size
