"""``hub:<owner>/<name>``: an image classification set of the Hugging Face Hub.

A folder with its Parquet files is read without any extra; otherwise the ``datasets`` library, an optional
extra, fetches the set to its own cache or finds it there.
"""

import json
import re
from pathlib import Path
from typing import Any

from pyarrow import dataset as arrow

from lineage.data.images import DataSet, require_folder
from lineage.data.parquet import find_parquet, read_arrow, read_parquet
from lineage.errors import NotFoundError, UsageError
from lineage.formats import first_line

PREFIX = "hub:"

_TEST_SPLITS = ("test", "validation", "valid", "val")


def build_hub(name: str, root: Path | None, image_size: int) -> DataSet:
    """The data set ``hub:<owner>/<name>``, from its Parquet files in ``root`` or through ``datasets``.

    Raises:
        UsageError: If the name is malformed, the extra is missing, or the set has no training or test part.
        NotFoundError: If ``root`` has no Parquet files, or the Hub no such set.
    """
    if not re.fullmatch(rf"{PREFIX}[\w.-]+/[\w.-]+", name):
        raise UsageError(f"A data set of the Hub must be named hub:OWNER/NAME, but got '{name}'.")
    if root is None:
        return _load(name, image_size)
    folder = find_parquet(require_folder(name, root))
    if folder is None:
        raise NotFoundError(
            f"{root} must hold train-*.parquet and test-*.parquet of '{name}', but holds none; correct "
            "data.root, or leave it out to read the set through the 'datasets' library."
        )
    return read_parquet(name, folder, image_size)


def _load(name: str, image_size: int) -> DataSet:
    """Let the ``datasets`` library find both parts; they stay in the Arrow files of its cache."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"Data set '{name}' needs the extra 'hub', which is not installed; run pip install "
            "'.[hub]' in the clone of lineage, or download its Parquet files and add --set data.root=FOLDER."
        ) from error
    try:
        splits = datasets.load_dataset(name.removeprefix(PREFIX))
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"Data set '{name}' must be on the Hub or in its cache, but could not be loaded: "
            f"{first_line(error)}; check the name and the connection."
        ) from error
    return read_splits(name, splits, image_size)


def read_splits(name: str, splits: Any, image_size: int) -> DataSet:
    """The data set in a ``datasets.DatasetDict``.

    Raises:
        UsageError: If there is no training or no test part, or columns are missing.
    """
    test = next((split for split in _TEST_SPLITS if split in splits), None)
    if "train" not in splits or test is None:
        raise UsageError(
            f"Data set '{name}' must have a split train and one of {', '.join(_TEST_SPLITS)}, but it has "
            f"{', '.join(splits)}; choose another one."
        )
    return read_arrow(name, _arrow(splits["train"]), _arrow(splits[test]), image_size)


def _arrow(split: Any) -> arrow.Dataset:
    """One split as Arrow data, mapped from the library's cache, with the Hub's description of its columns."""
    features = {"info": {"features": split.features.to_dict()}}
    table = split.with_format("arrow")[:]
    return arrow.dataset(table.replace_schema_metadata({"huggingface": json.dumps(features)}))
