"""Image classification data sets of the Hugging Face Hub, named ``hub:<owner>/<name>``.

A folder with the Parquet files is read directly. Without one, the ``datasets`` library, installed by the
extra ``hub``, reads the data set from its cache or downloads it.
"""

import json
import re
from pathlib import Path
from typing import Any

from pyarrow import dataset as arrow

from lineage.data.columns import has_labels
from lineage.data.images import DataSet, require_folder
from lineage.data.parquet import TRAIN, find_parquet, read_arrow, read_parquet
from lineage.data.parts import TEST_PARTS, choose_test_part
from lineage.errors import NotFoundError, UsageError
from lineage.formats import first_line

PREFIX = "hub:"


def build_hub(name: str, root: Path | None, image_size: int, test: str | None = None) -> DataSet:
    """Build the data set ``hub:<owner>/<name>``.

    Args:
        name: Name of the data set, with the prefix ``hub:``.
        root: Folder with its Parquet files; None loads it through the ``datasets`` library.
        image_size: Edge of the network's input in pixels, for streamed images.
        test: Part to hold for test; None takes the first of ``TEST_PARTS`` that has labels.

    Raises:
        UsageError: If the name is malformed, the extra is missing, or there is no training or test part.
        NotFoundError: If ``root`` has no Parquet files, or the Hub has no such data set.
    """
    if not re.fullmatch(rf"{PREFIX}[\w.-]+/[\w.-]+", name):
        raise UsageError(
            f"A data set of the Hub must be named hub:OWNER/NAME, but got '{name}'; correct data.name."
        )
    if root is None:
        return _load(name, image_size, test)
    folder = find_parquet(require_folder(name, root))
    if folder is None:
        raise NotFoundError(
            f"{root} must hold train-*.parquet and test-*.parquet of '{name}', but holds none; correct "
            "data.root, or leave it out to load the data set through the 'datasets' library."
        )
    return read_parquet(name, folder, image_size, test)


def _load(name: str, image_size: int, test: str | None) -> DataSet:
    """Load both parts through the ``datasets`` library; they stay in the Arrow files of its cache."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"Data set '{name}' needs the extra 'hub', but it is not installed; run pip install "
            "'.[hub]' in the clone of lineage, or download its Parquet files and add --set data.root=FOLDER."
        ) from error
    try:
        splits = datasets.load_dataset(name.removeprefix(PREFIX))
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"Data set '{name}' must be on the Hub or in the local cache, but could not be loaded: "
            f"{first_line(error)}; check the name and the connection."
        ) from error
    return read_splits(name, splits, image_size, test)


def read_splits(name: str, splits: Any, image_size: int, test: str | None = None) -> DataSet:
    """Build a data set from a ``datasets.DatasetDict``.

    Args:
        name: Name of the data set.
        splits: The ``DatasetDict``.
        image_size: Edge of the network's input in pixels, for streamed images.
        test: Part to hold for test; None takes the first of ``TEST_PARTS`` that has labels.

    Raises:
        UsageError: If there is no training or no test part, or columns are missing.
    """
    names = TEST_PARTS if test is None else (*TEST_PARTS, test)
    available = [part for part in dict.fromkeys(names) if part != TRAIN and part in splits]
    if TRAIN not in splits or not available:
        raise UsageError(
            f"Data set '{name}' must have a split train and one of {', '.join(TEST_PARTS)}, but it has "
            f"{', '.join(splits)}; choose another data set."
        )
    chosen = choose_test_part(name, available, test, lambda part: has_labels(_arrow(splits[part]), name))
    return read_arrow(name, _arrow(splits[TRAIN]), _arrow(splits[chosen]), image_size)


def _arrow(split: Any) -> arrow.Dataset:
    """Return one split as Arrow data, memory-mapped from the cache, with the Hub's column metadata."""
    features = {"info": {"features": split.features.to_dict()}}
    table = split.with_format("arrow")[:]
    return arrow.dataset(table.replace_schema_metadata({"huggingface": json.dumps(features)}))
