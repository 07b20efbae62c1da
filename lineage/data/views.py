"""Torch data sets that return the batch for a list of keys.

A key is ``view * num_samples + position``: the number of an augmented view, and a position among the selected
rows of the data set.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lineage.data.augmentation import (
    Augmentation,
    Normalisation,
    crop_and_flip,
    memory_transform,
    random_bits,
    streamed_transform,
)
from lineage.data.images import DataSpec, Images, MemoryImages, StreamedImages
from lineage.data.mixing import Mixing, soft_labels
from lineage.data.policies import transform_each
from lineage.errors import UsageError

Batch = tuple[Tensor, ...]


class SoftTargets(Protocol):
    """Teacher outputs stored for every view of every training image."""

    def read(self, views: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Read the stored outputs of a batch.

        Args:
            views: View numbers, from 1, int64, shape (B,).
            positions: Positions among the training images, int64, shape (B,).

        Returns:
            Tensors of shape (B, …).
        """


def view_of(
    images: Images,
    spec: DataSpec,
    indices: Tensor,
    augmentation: Augmentation | None,
    data_seed: int,
) -> "View":
    """Return a torch data set of selected rows, which gives batches (images, labels, rows).

    Args:
        images: Images in memory or streamed.
        spec: Description of the data set.
        indices: Rows to select, int64, shape (N,).
        augmentation: Settings of the augmentation; None shows images as evaluation does.
        data_seed: Seed of the augmentation.

    Raises:
        UsageError: If the padding does not fit the images, or has no effect on them.
    """
    if isinstance(images, MemoryImages):
        return MemoryView(images, spec, indices, augmentation, data_seed)
    return StreamedView(images, spec, indices, augmentation, data_seed)


class View(Dataset[Batch], ABC):
    """Selected rows of a data set, as normalised views; the arguments are those of ``view_of``."""

    def __init__(
        self,
        images: Images,
        spec: DataSpec,
        indices: Tensor,
        augmentation: Augmentation | None,
        data_seed: int,
    ) -> None:
        self.images = images
        self.spec = spec
        self.indices = indices
        self.augmentation = augmentation
        self.data_seed = data_seed
        self.mixing: Mixing | None = None
        if augmentation is not None and augmentation.mixes:
            self.mixing = Mixing(augmentation.mixup, augmentation.cutmix)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: list[int]) -> Batch:
        """Return the batch for ``keys``; positions alone are keys of view 0."""
        pixels, labels, rows = self.read(keys)
        return self.normalise(pixels), labels, rows

    def read(self, keys: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return views before they are normalised.

        Args:
            keys: Keys of the views.

        Returns:
            Pixels, integers from 0 to 255, uint8 or float32, shape (B, H, W, C); labels; and rows. Labels are
            classes, int64, shape (B,), or shares of C classes, float32, shape (B, C), where views are mixed.
        """
        numbers = torch.tensor(keys)
        views, rows = numbers // len(self.indices), self.indices[numbers % len(self.indices)]
        bits = random_bits(self.data_seed, views, rows)
        labels = self.images.labels[rows]
        if self.mixing is None:
            return self.show(rows, bits), labels, rows
        mixture = self.mixing.draw(bits, len(self.indices))
        partners = self.indices[mixture.partners]
        their_bits = random_bits(self.data_seed, views, partners)
        shown = self.show(torch.cat([rows, partners]), torch.cat([bits, their_bits]))
        pixels, share = self.mixing.mix(shown[: len(rows)], shown[len(rows) :], mixture)
        soft = soft_labels(labels, self.images.labels[partners], share, self.spec.num_classes)
        return pixels, soft, rows

    @abstractmethod
    def show(self, rows: Tensor, bits: Tensor) -> Tensor:
        """Return views of rows for their random bits, both int64 (B,), as uint8 (B, H, W, C)."""

    @abstractmethod
    def normalise(self, pixels: Tensor) -> Tensor:
        """Return pixels as the network's input, float32 (B, C, H, W), in channels_last memory format."""


class MemoryView(View):
    """Selected rows of images in memory, cropped, flipped and normalised a whole batch at a time."""

    images: MemoryImages

    def __init__(
        self,
        images: MemoryImages,
        spec: DataSpec,
        indices: Tensor,
        augmentation: Augmentation | None,
        data_seed: int,
    ) -> None:
        super().__init__(images, spec, indices, augmentation, data_seed)
        _, height, width, _ = images.pixels.shape
        if augmentation and not 0 <= augmentation.crop_padding < min(height, width):
            raise UsageError(
                f"data.crop_padding must be at least 0 and below the images' edge, {min(height, width)} "
                f"pixels, but got {augmentation.crop_padding}; change it."
            )
        self.transform = None if augmentation is None else memory_transform(spec, augmentation)
        self.normalisation = Normalisation(spec.mean, spec.std, height, width)

    def show(self, rows: Tensor, bits: Tensor) -> Tensor:
        """See ``View``."""
        if self.augmentation is None:
            return self.images.pixels[rows]
        pixels = crop_and_flip(self.images.pixels, rows, bits, self.augmentation)
        if self.transform is None:
            return pixels
        images = pixels.permute(0, 3, 1, 2)
        return transform_each(images, self.transform, bits).permute(0, 2, 3, 1).contiguous()

    def normalise(self, pixels: Tensor) -> Tensor:
        """See ``View``."""
        return self.normalisation(pixels)


class StreamedView(View):
    """Selected rows of streamed images, decoded and transformed one by one."""

    images: StreamedImages

    def __init__(
        self,
        images: StreamedImages,
        spec: DataSpec,
        indices: Tensor,
        augmentation: Augmentation | None,
        data_seed: int,
    ) -> None:
        from torchvision.transforms import v2

        super().__init__(images, spec, indices, augmentation, data_seed)
        if augmentation and augmentation.crop_padding:
            raise UsageError(
                f"data.crop_padding must be 0 for '{spec.name}', whose images are streamed and get a random"
                f" resized crop, but got {augmentation.crop_padding}; set it to 0, and set"
                " data.augment.random_resized_crop to change the crop."
            )
        self.transform = streamed_transform(spec, augmentation)
        self.to_input = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec.mean, spec.std)])

    def show(self, rows: Tensor, bits: Tensor) -> Tensor:
        """See ``View``."""
        images = (self.images.read(row) for row in rows.tolist())
        return transform_each(images, self.transform, bits).permute(0, 2, 3, 1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """See ``View``."""
        images: Tensor = self.to_input(pixels.to(torch.uint8).permute(0, 3, 1, 2))
        return images.contiguous(memory_format=torch.channels_last)


class ViewWithSoftTargets(Dataset[Batch]):
    """Batches of another data set, followed by a teacher's stored outputs for the same views.

    Args:
        view: Data set of the images.
        soft_targets: Stored outputs for these images.
        num_samples: Number of images.
    """

    def __init__(self, view: Dataset[Batch], soft_targets: SoftTargets, num_samples: int) -> None:
        self.view = view
        self.soft_targets = soft_targets
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitems__(self, keys: list[int]) -> Batch:
        """Return the batch for ``keys``, with the stored outputs appended."""
        numbers = torch.tensor(keys)
        batch: Batch = self.view.__getitems__(keys)  # type: ignore[attr-defined]
        return (*batch, *self.soft_targets.read(numbers // self.num_samples, numbers % self.num_samples))
