"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), in the Parquet layout of the Hub or in torchvision's layout."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lineage.data.images import DataSet, MemoryImages, memory_dataset, require_folder
from lineage.data.parquet import find_parquet, read_parquet
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import first_line

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

# fmt: off
CIFAR100_SUPERCLASSES = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15,
    0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4,
    18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19,
    5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)
"""Coarse label of each CIFAR-100 class, as its authors define it; torchvision leaves it out."""
# fmt: on


def build_cifar10(root: Path | None, download: bool, image_size: int, test: str | None = None) -> DataSet:
    """Load CIFAR-10, or a part of it in the same layout."""
    return _build("cifar10", root, download, image_size, test, superclasses=None)


def build_cifar100(root: Path | None, download: bool, image_size: int, test: str | None = None) -> DataSet:
    """Load CIFAR-100 with its 20 superclasses, or a part of it in the same layout."""
    return _build("cifar100", root, download, image_size, test, superclasses=CIFAR100_SUPERCLASSES)


def read_torchvision(
    name: str, reader: type["CIFAR10"], root: Path, download: bool, superclasses: tuple[int, ...] | None
) -> DataSet:
    """Read a data set in torchvision's layout, whose pickles are opened after their checksums are verified.

    Args:
        name: Name of the data set in errors and in its description.
        reader: torchvision's class that reads and verifies the files.
        root: Folder that holds the reader's ``base_folder``.
        download: Whether to download missing files.
        superclasses: Superclass of each class, or None.

    Raises:
        IntegrityError: If a file is missing or its checksum differs.
        NotFoundError: If the download fails.
    """
    try:
        with warnings.catch_warnings():
            # The pickles come from a NumPy whose dtype flags have since been deprecated.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            train, test = (reader(root, train=part, download=download) for part in (True, False))
    except RuntimeError as error:
        raise IntegrityError(
            f"{root / reader.base_folder} must hold files with the checksums that torchvision lists, but one "
            "is missing or altered; remove the folder and add --set data.download=true."
        ) from error
    except OSError as error:
        raise NotFoundError(
            f"Data set '{name}' must be fetched from {reader.url} to {root}, but that failed: "
            f"{first_line(error)}; try again, or put the files there by hand."
        ) from error
    parts = [
        MemoryImages(torch.from_numpy(part.data.copy()), torch.tensor(part.targets)) for part in (train, test)
    ]
    return memory_dataset(name, parts[0], parts[1], train.classes, superclasses)


def _require_its_classes(dataset: DataSet) -> DataSet:
    """Return a data set if its number of classes is that in its name.

    Raises:
        IntegrityError: If it is another data set.
    """
    name, found = dataset.spec.name, dataset.spec.num_classes
    needed = int(name.removeprefix("cifar"))
    if found != needed:
        raise IntegrityError(
            f"Data set '{name}' must have {needed} classes, but the files in data.root have {found}, such as "
            f"'{dataset.spec.class_names[0]}'; correct data.root, or name another data set, such as "
            "hub:OWNER/NAME."
        )
    return dataset


def _build(
    name: str,
    root: Path | None,
    download: bool,
    image_size: int,
    test: str | None,
    superclasses: tuple[int, ...] | None,
) -> DataSet:
    """Read the layout that ``root`` has; if it has none and ``download`` is set, fetch torchvision's."""
    fetched = Path(torch.hub.get_dir()).parent / "datasets" / name
    if root is None and not download:
        raise UsageError(
            f"Data set '{name}' is read from a folder, but none is given; add --set data.root=FOLDER, or "
            f"--set data.download=true to fetch it to {fetched}."
        )
    root = root or fetched
    if root.exists() or not download:
        folder = find_parquet(require_folder(name, root))
        if folder is not None:
            return _require_its_classes(read_parquet(name, folder, image_size, test))
    from torchvision.datasets import CIFAR10, CIFAR100  # takes a second; Parquet files need none of it

    reader = CIFAR10 if name == "cifar10" else CIFAR100
    if not (download or (root / reader.base_folder).is_dir()):
        raise NotFoundError(
            f"{root} must hold train-*.parquet and test-*.parquet, or torchvision's {reader.base_folder},"
            f" but holds neither; correct data.root, or fetch '{name}' by --set data.download=true."
        )
    if test not in (None, "test"):
        raise UsageError(
            f"data.test must be 'test', the only part of '{name}' in torchvision's layout beside its "
            f"training part, but got '{test}'; leave it out."
        )
    return read_torchvision(name, reader, root, download, superclasses)
