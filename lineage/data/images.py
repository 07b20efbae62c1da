"""Types of a data set: images, labels, and the description that is stored with a model."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from lineage.errors import IntegrityError, NotFoundError, UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_IMAGES_PER_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images of one size, decoded and held in memory.

    Attributes:
        pixels: Decoded images, uint8, shape (N, H, W, C).
        labels: Class of each image, int64, shape (N,).
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class StreamedImages(Protocol):
    """Images of any size, decoded one by one on reading."""

    @property
    def labels(self) -> Tensor:
        """Class of each image, int64, shape (N,)."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """Decode one image.

        Returns:
            Decoded image, uint8, shape (C, H, W), in its own size.

        Raises:
            IntegrityError: If the image cannot be decoded.
        """


Images = MemoryImages | StreamedImages


@dataclass(frozen=True)
class DataSpec:
    """Description of a data set, stored with each model so that it can be used without the data.

    Attributes:
        name: Name of the data set in a recipe.
        class_names: Class names in the order of the labels.
        superclasses: Superclass of each class, or None if the data set has none.
        mean: Mean of each channel of the training images, for pixels in [0, 1].
        std: Standard deviation of each channel of the training images, for pixels in [0, 1].
        input_shape: Shape (C, H, W) of the network's input.
        digest: Hexadecimal SHA-256 of the contents; the docstring of each builder states what it covers.
    """

    name: str
    class_names: tuple[str, ...]
    superclasses: tuple[int, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_shape: tuple[int, int, int]
    digest: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def to_json(self) -> dict[str, Any]:
        """Return the description as a dict that ``json.dumps`` accepts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataSpec":
        """Return the description that ``to_json`` turned into ``value``.

        Raises:
            IntegrityError: If a field is missing or has another type.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(value))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise IntegrityError(
                f"A data description must have the fields that lineage writes, but field '{where}' is wrong: "
                f"{first['msg']}; load the model from an untouched copy."
            ) from error


@dataclass(frozen=True, eq=False)
class DataSet:
    """Both parts of a data set and its description; ``split_indices`` holds out a part of ``train``."""

    train: Images
    test: Images
    spec: DataSpec


def memory_dataset(
    name: str,
    train: MemoryImages,
    test: MemoryImages,
    class_names: Sequence[str],
    superclasses: Sequence[int] | None = None,
) -> DataSet:
    """Build a data set held in memory, whose description is computed from its contents.

    The digest covers the pixels and labels of both parts and the class names, in their order: the same
    contents in another folder or layout have the same digest.

    Args:
        name: Name of the data set.
        train: Training part.
        test: Test part.
        class_names: Class names in the order of the labels.
        superclasses: Superclass of each class, or None.
    """
    mean, std = channel_statistics(train.pixels)
    height, width, channels = train.pixels.shape[1:]
    digest = hashlib.sha256(_header(class_names, train, test))
    for part in (train, test):
        digest.update(part.pixels.contiguous().numpy().data)
        digest.update(part.labels.contiguous().numpy().data)
    spec = DataSpec(
        name=name,
        class_names=tuple(class_names),
        superclasses=None if superclasses is None else tuple(superclasses),
        mean=mean,
        std=std,
        input_shape=(channels, height, width),
        digest=digest.hexdigest(),
    )
    return DataSet(train, test, spec)


def channel_statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, from exact counts.

    The number of threads therefore changes no digit.

    Args:
        pixels: Images, uint8, shape (N, H, W, C).

    Returns:
        Means and standard deviations, C of each, for pixels scaled to [0, 1], rounded to 6 digits. A constant
        channel has standard deviation 1, so that dividing by it is safe.
    """
    channels = pixels.shape[3]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(pixels), _IMAGES_PER_CHUNK):
        chunk = pixels[start : start + _IMAGES_PER_CHUNK]
        for channel in range(channels):
            counts[channel] += torch.bincount(chunk[..., channel].flatten(), minlength=256).numpy()
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    rounded = [(round(float(m), 6), round(float(s), 6) or 1.0) for m, s in zip(mean, std, strict=True)]
    return tuple(m for m, _ in rounded), tuple(s for _, s in rounded)


def require_labels(labels: Tensor, num_classes: int, where: str) -> Tensor:
    """Return ``labels`` if each lies in 0..num_classes - 1.

    Args:
        labels: Labels to check, int64, shape (N,).
        num_classes: Number of classes.
        where: Name of the labels' place in error messages.

    Raises:
        IntegrityError: If a label lies outside 0..num_classes - 1.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise IntegrityError(
            f"Labels in {where} must lie in 0..{num_classes - 1}, but row {row} has {int(labels[row])}; "
            "correct them or choose a data set whose labels are published."
        )
    return labels


def require_folder(name: str, root: Path | None) -> Path:
    """Return ``root`` if it is a folder.

    Args:
        name: Name of the data set in error messages.
        root: Folder with its files, or None.

    Raises:
        UsageError: If ``root`` is None.
        NotFoundError: If ``root`` is not a folder.
    """
    if root is None:
        raise UsageError(
            f"Data set '{name}' is read from a folder, but none is given; add --set data.root=FOLDER."
        )
    if not root.is_dir():
        raise NotFoundError(
            f"Data set '{name}' must be in a folder, but {root} is not one; correct data.root."
        )
    return root


def _header(class_names: Sequence[str], *parts: MemoryImages) -> bytes:
    """Return a digest prefix that tells apart equal bytes of different shapes or class names."""
    shapes = [list(part.pixels.shape) for part in parts]
    return json.dumps({"class_names": list(class_names), "shapes": shapes}).encode()
