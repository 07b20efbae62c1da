"""Data sets by name, as a recipe's ``data.name`` gives it.

Small data sets are held in memory as uint8 tensors, large ones are streamed. Only ``data.download=true`` and
``hub:`` names without a root download anything; decoded images are never written to disk.
"""

import inspect
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from lineage.data.checks import check_classes
from lineage.data.cifar import build_cifar10, build_cifar100
from lineage.data.folders import build_imagefolder, build_imagenet
from lineage.data.hub import PREFIX, build_hub
from lineage.data.images import DataSet, DataSpec, Images, MemoryImages, StreamedImages, memory_dataset
from lineage.data.reduction import reduce_images
from lineage.data.stratified import stratified_split
from lineage.errors import UsageError
from lineage.extensions import Builder, resolve, typed_options

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


STREAMED_SIZE = 224
"""Edge in pixels of the network's input where images are streamed and no size is given."""

_POSITIONAL = 3  # parameters of a builder that it always gets


class DatasetBuilder(Protocol):
    """Function that builds a data set; packages register theirs as entry points in ``lineage.datasets``."""

    def __call__(self, root: Path | None, download: bool, image_size: int) -> DataSet:
        """Build the data set.

        Args:
            root: Folder with the files, or None if the recipe sets no ``data.root``.
            download: Whether to fetch missing files.
            image_size: Edge of the network's input in pixels, for streamed images; images in memory are
                reduced afterwards.

        A builder that lets users choose the part to hold for test has a further parameter ``test``, the
        part's name, which is None by default. Any other parameter is an option, which ``data.options`` gives.
        """


def build_digits(root: Path | None, download: bool, image_size: int) -> DataSet:
    """Build scikit-learn's 1,797 handwritten digits, 1×8×8; a fifth of each class is the test part.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998. The 17 grey levels
    are scaled to 0..255.
    """
    columns = torch.from_numpy(np.loadtxt(_digits_file(), delimiter=","))  # 64 pixels of 0..16, and the class
    pixels = (columns[:, :-1] * (255 / 16)).round().to(torch.uint8).view(-1, 8, 8, 1)
    labels = columns[:, -1].long()
    parts = stratified_split(labels.numpy(), len(labels) - math.ceil(0.2 * len(labels)), seed=0)
    train, test = (MemoryImages(pixels[part], labels[part]) for part in parts)
    return memory_dataset("digits", train, test, [str(digit) for digit in range(10)])


def _digits_file() -> Path:
    """Return the file in which scikit-learn ships the digits; importing it to read one takes a second."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


DATASETS: Mapping[str, DatasetBuilder] = {
    "digits": build_digits,
    "cifar10": build_cifar10,
    "cifar100": build_cifar100,
    "imagefolder": build_imagefolder,
    "imagenet": build_imagenet,
}
"""Built-in data sets; ``load_dataset`` also takes ``hub:<owner>/<name>`` and ``package:name``."""


def load_dataset(
    name: str,
    root: str | None = None,
    download: bool = False,
    image_size: int | None = None,
    test: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> DataSet:
    """Load a data set.

    Args:
        name: Key of ``DATASETS``, ``hub:<owner>/<name>``, or ``package:name`` of an installed package.
        root: Folder with the files; ``~`` is the home folder.
        download: Whether to fetch missing files of CIFAR; ``hub:`` names without a root are
            fetched regardless.
        image_size: Edge of the images in pixels, as ``reduce_images`` makes them where they are in memory;
            None is the edge they have there, and ``STREAMED_SIZE`` where they are streamed.
        test: Part to hold for test; None takes the first one that has labels.
        options: Options by name, for a data set of a package.

    Raises:
        RecipeError: If the name is unknown, or the data set does not take an option.
        UsageError: If the data set needs a folder and none is given, its contents have the
            wrong form, or its images cannot have that size.
        NotFoundError: If the folder, a part of it, or a remote data set does not exist.
        IntegrityError: If contents are damaged.
    """
    folder = None if root is None else Path(root).expanduser()
    edge = image_size or STREAMED_SIZE
    dataset = check_classes(_build(name, folder, download, edge, test, options or {}))
    return dataset if image_size is None else reduce_images(dataset, image_size)


def _build(
    name: str,
    root: Path | None,
    download: bool,
    image_size: int,
    test: str | None,
    options: Mapping[str, Any],
) -> DataSet:
    """Call the builder of a data set."""
    if name.startswith(PREFIX):
        dataset_options(name, build_hub, options)  # of which it takes none
        return build_hub(name, root, image_size, test)
    builder = resolve("dataset", name, DATASETS)
    checked = dataset_options(name, builder, options)
    if test is not None and "test" not in inspect.signature(builder).parameters:
        raise UsageError(
            f"data.test names the part that is held for test, but '{name}' has no choice of parts and got "
            f"'{test}'; leave it out."
        )
    dataset: DataSet = builder(
        root, download, image_size, **({} if test is None else {"test": test}), **checked
    )
    return dataset


def dataset_options(name: str, builder: Builder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a data set with the types and defaults of its builder's signature.

    Options are what follows root, download and image size, whatever a builder calls those, but for ``test``.

    Raises:
        RecipeError: If the data set takes no such option, or an option has another type.
    """
    given = [*list(inspect.signature(builder).parameters)[:_POSITIONAL], "test"]
    return typed_options(f"The data set '{name}'", "data.options", builder, options, given)
