"""What a data set is to the rest of ``lineage``: images, labels, and what travels with a model."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_IMAGES_A_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images of one size, decoded and held in memory.

    Attributes:
        pixels: uint8, shape (N, H, W, C).
        labels: int64, shape (N,).
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class StreamedImages(Protocol):
    """Images of any size, decoded one by one when they are read."""

    @property
    def labels(self) -> Tensor:
        """Class of each image, int64, shape (N,)."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """Decode one image.

        Returns:
            uint8, shape (C, H, W); H and W are the image's own.

        Raises:
            IntegrityError: If the image cannot be decoded.
        """


Images = MemoryImages | StreamedImages


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of its data to be used without them.

    Attributes:
        name: The name that a recipe gives the data set.
        class_names: Names in the order of the labels.
        superclasses: Superclass of each class, or None where the data have none.
        mean: Mean of each channel of the training images, whose pixels lie in [0, 1].
        std: Standard deviation of each channel, likewise.
        input_shape: (C, H, W) of what a network is given.
        digest: SHA-256 of the contents, in hexadecimal; the reader of each layout says what it covers.
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
        """How many classes there are."""
        return len(self.class_names)

    def to_json(self) -> dict[str, Any]:
        """The description as ``json.dumps`` takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataSpec":
        """The description that ``to_json`` gave.

        Raises:
            IntegrityError: If a field is missing or has another type.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(value))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise IntegrityError(
                f"A data description must be what lineage wrote, but its field '{where}' is not: "
                f"{first['msg']}; load the model from an untouched copy."
            ) from error


@dataclass(frozen=True, eq=False)
class DataSet:
    """The two parts of a data set and its description; a validation part is cut from ``train`` later."""

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
    """A data set held in memory, described by its own contents.

    The digest covers the pixels and labels of both parts and the class names, in their order: the same
    contents from another folder or layout have the same digest.
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
    """Mean and standard deviation of each channel, from exact counts: no thread count changes a digit.

    Args:
        pixels: uint8, shape (N, H, W, C).

    Returns:
        Two tuples of C numbers, for pixels scaled to [0, 1] and rounded to 6 digits; a channel of one single
        value has a deviation of 1, so that dividing by it is harmless.
    """
    channels = pixels.shape[3]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(pixels), _IMAGES_A_CHUNK):
        chunk = pixels[start : start + _IMAGES_A_CHUNK]
        for channel in range(channels):
            counts[channel] += torch.bincount(chunk[..., channel].flatten(), minlength=256).numpy()
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    rounded = [(round(float(m), 6), round(float(s), 6) or 1.0) for m, s in zip(mean, std, strict=True)]
    return tuple(m for m, _ in rounded), tuple(s for _, s in rounded)


def decode_rgb(source: Path | IO[bytes], where: str) -> NDArray[np.uint8]:
    """Decode one image of any format that Pillow knows; torchvision's own decoders are deprecated since 0.29.

    Args:
        source: The encoded image.
        where: What an error calls it.

    Returns:
        Shape (H, W, 3).

    Raises:
        IntegrityError: If it does not decode.
    """
    try:
        with Image.open(source) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise IntegrityError(
            f"{where} must be an image that decodes, but is not: {first_line(error)}; replace or remove it."
        ) from error


def require_labels(labels: Tensor, num_classes: int, where: str) -> Tensor:
    """Return ``labels`` if each is a class.

    Raises:
        IntegrityError: If a label lies outside 0..num_classes - 1.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise IntegrityError(
            f"Labels in {where} must lie in 0..{num_classes - 1}, but row {row} has {int(labels[row])}: "
            "this part has no usable labels, choose another one."
        )
    return labels


def require_folder(name: str, root: Path | None) -> Path:
    """Return ``root`` if it is a folder.

    Raises:
        UsageError: If no root is given.
        NotFoundError: If there is no such folder.
    """
    if root is None:
        raise UsageError(
            f"Data set '{name}' is read from a folder, but none is given; add --set data.root=FOLDER."
        )
    if not root.is_dir():
        raise NotFoundError(f"Data set '{name}' must be in a folder, but {root} is none; correct data.root.")
    return root


def _header(class_names: Sequence[str], *parts: MemoryImages) -> bytes:
    """What separates contents of equal bytes but different shapes or names."""
    shapes = [list(part.pixels.shape) for part in parts]
    return json.dumps({"class_names": list(class_names), "shapes": shapes}).encode()
