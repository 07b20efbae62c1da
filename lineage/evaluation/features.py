"""What a frozen network sees of another data set, and the features it makes of it."""

from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pixel_operations

from lineage.data.datasets import DataSet, DataSpec, Images, MemoryImages, StreamedImages
from lineage.errors import IntegrityError, UsageError
from lineage.formats import counted
from lineage.training.engines import collect_rows, freeze, make_evaluator
from lineage.training.measurement import Subset

_IMAGES_A_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class FittedDataSet:
    """A data set as a network of other data can be given it.

    Attributes:
        dataset: Its images, with the network's normalisation and input shape in the description; classes and
            digest are its own.
        notes: Sentences on what was done to the images.
    """

    dataset: DataSet
    notes: tuple[str, ...]


def fit_images(dataset: DataSet, source: DataSpec, who: str) -> FittedDataSet:
    """Bring images to the shape that a network takes, to be normalised as those it was trained on.

    Grey is repeated; sizes are changed by antialiased bilinear interpolation, which keeps no proportions, but
    for streamed images, which are resized and cut when they are read anyway.

    Args:
        dataset: The target.
        source: Of the data that the network was trained on.
        who: What errors call the network.

    Raises:
        UsageError: If the images have other channels than the network takes, and are not grey.
    """
    own = dataset.spec
    channels, height, width = source.input_shape
    if own.input_shape[0] not in {1, channels}:
        raise UsageError(
            f"{who} must be given images of {counted(channels, 'channel')}, but those of '{own.name}' have"
            f" {own.input_shape[0]}; take a network of {own.input_shape[0]} channels or another data set."
        )
    notes = []
    if own.input_shape[1:] != (height, width):
        from_size = f" from {own.input_shape[1]}×{own.input_shape[2]}"
        known = from_size if isinstance(dataset.train, MemoryImages) else ""
        notes.append(f"Images are resized{known} to {height}×{width} pixels.")
    if own.input_shape[0] != channels:
        notes.append(f"Grey is repeated to {channels} channels.")
    fitted = DataSet(
        _fit_part(dataset.train, source.input_shape),
        _fit_part(dataset.test, source.input_shape),
        replace(own, mean=source.mean, std=source.std, input_shape=source.input_shape),
    )
    return FittedDataSet(fitted, tuple(notes))


def extract_features(accelerator: Accelerator, network: nn.Module, part: Subset, who: str) -> Tensor:
    """Pass every image of ``part`` through the frozen network once, in float32, on all processes.

    Args:
        accelerator: The processes to use.
        network: Has ``features``; its weights must be equal on all ranks. It is frozen here: running
            statistics in BatchNorm, no gradients.
        part: What to look at.
        who: What errors call the network.

    Returns:
        float32, shape (N, D), on the CPU: a row for each of the part's indices, in their order.

    Raises:
        IntegrityError: If a feature is not finite.
    """
    body = freeze(_Body(network), accelerator.device)
    size = num_features(network, part.spec.input_shape)
    rows = torch.zeros(len(part.images), size, device=accelerator.device)
    evaluator = make_evaluator(accelerator, body, {}, len(part))
    collect_rows(evaluator, itemgetter("logits"), rows)
    evaluator.run(part.batches(accelerator))
    found: Tensor = accelerator.reduce(rows, reduction="sum").cpu()[part.indices]
    if not found.isfinite().all():
        broken = int((~found.isfinite()).any(1).sum())
        raise IntegrityError(
            f"The features of {who} must be finite, but of {len(found)} images of '{part.spec.name}'"
            f" {broken} have others; take another version."
        )
    return found


def num_features(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """D, by one black image; the network stays in the mode it was in."""
    was_training = network.training
    device = next(network.parameters()).device
    with torch.inference_mode():
        features: Tensor = network.eval().features(torch.zeros(1, *input_shape, device=device))  # type: ignore[operator]
    network.train(was_training)
    return features.flatten(1).shape[1]


class _Body(nn.Module):
    """A network whose forward pass ends before its classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.features(images)  # type: ignore[operator]
        return features.flatten(1)


class _RepeatedGrey:
    """Streamed grey images, each as so many equal channels."""

    def __init__(self, images: StreamedImages, channels: int) -> None:
        self.images = images
        self.channels = channels

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        pixels = self.images.read(index)
        return pixels.expand(self.channels, -1, -1) if len(pixels) == 1 else pixels


def _fit_part(images: Images, input_shape: tuple[int, int, int]) -> Images:
    """One part at the shape that a network takes; streamed images are resized when they are read."""
    channels, height, width = input_shape
    if not isinstance(images, MemoryImages):
        return _RepeatedGrey(images, channels)
    pixels = images.pixels
    if pixels.shape[1:3] != (height, width):
        chunks = torch.split(pixels.permute(0, 3, 1, 2), _IMAGES_A_CHUNK)
        resized = [pixel_operations.resize(chunk, [height, width], antialias=True) for chunk in chunks]
        pixels = torch.cat(resized).permute(0, 2, 3, 1)
    pixels = pixels.expand(-1, -1, -1, channels).contiguous()
    return MemoryImages(pixels, images.labels)
