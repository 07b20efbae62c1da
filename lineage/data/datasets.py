"""Data sets by name: what a recipe's ``data.name`` can be.

Small sets are held in memory as uint8 tensors, large ones are streamed; nothing is downloaded unless asked
for, and nothing decoded is written to disk.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from lineage.data.cifar import build_cifar10, build_cifar100
from lineage.data.folders import build_imagefolder, build_imagenet
from lineage.data.hub import PREFIX, build_hub
from lineage.data.images import DataSet, DataSpec, Images, MemoryImages, StreamedImages, memory_dataset
from lineage.extensions import resolve

__all__ = [
    "DATASETS",
    "DataSet",
    "DataSpec",
    "DatasetBuilder",
    "Images",
    "MemoryImages",
    "StreamedImages",
    "load_dataset",
]


class DatasetBuilder(Protocol):
    """Builds a data set; installed packages offer theirs in the entry-point group ``lineage.datasets``."""

    def __call__(self, root: Path | None, download: bool, image_size: int) -> DataSet:
        """Build it.

        Args:
            root: Folder with the files, or None where none is named.
            download: Whether missing files may be fetched.
            image_size: Edge in pixels of what a network is given, for images that are streamed.
        """


def build_digits(root: Path | None, download: bool, image_size: int) -> DataSet:
    """The 1,797 handwritten digits that scikit-learn ships, 1×8×8, a fifth of each class as the test part.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998. The 17 grey levels
    are spread over 0..255.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(-1)
    labels = torch.from_numpy(digits.target).long()
    rows = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, test = (MemoryImages(pixels[sorted(part)], labels[sorted(part)]) for part in rows)
    return memory_dataset("digits", train, test, [str(digit) for digit in digits.target_names])


DATASETS: Mapping[str, DatasetBuilder] = {
    "digits": build_digits,
    "cifar10": build_cifar10,
    "cifar100": build_cifar100,
    "imagefolder": build_imagefolder,
    "imagenet": build_imagenet,
}
"""Builders by name; ``hub:<owner>/<name>`` and ``package:name`` are understood besides."""


def load_dataset(
    name: str, root: str | None = None, download: bool = False, image_size: int = 224
) -> DataSet:
    """Load a data set.

    Args:
        name: A key of ``DATASETS``, ``hub:<owner>/<name>``, or ``package:name`` of an installed package.
        root: Folder with the files; ``~`` is the home folder.
        download: Whether missing files of CIFAR may be fetched; ``hub:`` without a root always may.
        image_size: Edge in pixels of what a network is given, for images that are streamed.

    Raises:
        RecipeError: If the name is unknown.
        UsageError: If a folder must be named and is not, or its contents have the wrong form.
        NotFoundError: If the folder, a part of it, or a remote set is not there.
        IntegrityError: If contents are damaged.
    """
    folder = None if root is None else Path(root).expanduser()
    if name.startswith(PREFIX):
        return build_hub(name, folder, image_size)
    dataset: DataSet = resolve("dataset", name, DATASETS)(folder, download, image_size)
    return dataset
