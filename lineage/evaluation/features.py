"""Features of a frozen network on another data set, whose images are fitted to the network first."""

from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pixel_operations

from lineage.data.images import DataSet, DataSpec, Images, MemoryImages, StreamedImages
from lineage.errors import IntegrityError, UsageError
from lineage.formats import counted
from lineage.training.engines import freeze
from lineage.training.measurement import Subset, collect

_IMAGES_A_CHUNK = 4096  # resized at once, in float32


@dataclass(frozen=True, eq=False)
class FittedDataSet:
    """A data set whose images a network of another data set can take.

    Attributes:
        dataset: Converted images; the description has the network's normalisation and input shape, and the
            data set's own classes and digest.
        notes: Sentences that say how the images were converted.
    """

    dataset: DataSet
    notes: tuple[str, ...]


def fit_images(dataset: DataSet, source: DataSpec, who: str) -> FittedDataSet:
    """Convert images to the shape that a network takes, normalised as those it was trained on.

    Grey is repeated over the channels. Images in memory are resized by antialiased bilinear interpolation,
    without keeping their proportions; streamed images are resized and cropped when they are read.

    Args:
        dataset: Images to convert.
        source: Description of the data that the network was trained on.
        who: Name of the network in errors.

    Raises:
        UsageError: If the images are not grey and have other channels than the network takes.
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
        accelerator: Accelerator of the processes.
        network: Network with a method ``features``, whose weights must be equal on all ranks. It is frozen
            here: BatchNorm uses its running statistics, and there are no gradients.
        part: Images to pass through.
        who: Name of the network in errors.

    Returns:
        Features, float32, shape (N, D), on the CPU: one row for each of the part's indices, in their order.

    Raises:
        IntegrityError: If a feature is not finite.
    """
    body = freeze(_Body(network), accelerator.device)
    size = num_features(network, part.spec.input_shape)
    features = collect(accelerator, body, part, itemgetter("logits"), [size])
    if not features.isfinite().all():
        num_broken = int((~features.isfinite()).any(1).sum())
        raise IntegrityError(
            f"The features of {who} must be finite, but those of {num_broken} of {len(features)} images of"
            f" '{part.spec.name}' are not; take another version."
        )
    return features


def num_features(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the number D of features, found by passing one black image; the network keeps its mode."""
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
    """Streamed images whose grey ones have their channel repeated ``channels`` times."""

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
    """Convert one part to the shape (channels, H, W) that a network takes."""
    channels, height, width = input_shape
    if not isinstance(images, MemoryImages):  # streamed images are resized when they are read
        return _RepeatedGrey(images, channels)
    pixels = images.pixels
    if pixels.shape[1:3] != (height, width):
        chunks = torch.split(pixels.permute(0, 3, 1, 2), _IMAGES_A_CHUNK)
        resized = [pixel_operations.resize(chunk, [height, width], antialias=True) for chunk in chunks]
        pixels = torch.cat(resized).permute(0, 2, 3, 1)
    pixels = pixels.expand(-1, -1, -1, channels).contiguous()
    return MemoryImages(pixels, images.labels)
