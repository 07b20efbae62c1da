"""Data sets that settings name: loaded over all processes, split, and cut into parts to measure on."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lineage.data.augmentation import Augmentation, ResizedCrop
from lineage.data.datasets import load_dataset
from lineage.data.images import DataSet, DataSpec
from lineage.data.splits import split_indices
from lineage.evaluation.data_index import remember_folder
from lineage.processes import is_main_process
from lineage.recipe import DataSettings
from lineage.training.measurement import Subset
from lineage.training.turns import in_turns

_MOST_CLASSES_RANKED = 5


@dataclass(frozen=True, eq=False)
class SplitData:
    """A data set with its training part split into images to train on and images to validate on.

    Attributes:
        dataset: Training and test part with their description.
        train: Rows of the training part to train on, shape (N,).
        validation: Rows of the training part that are held out, shape (M,); may be empty.
    """

    dataset: DataSet
    train: Tensor
    validation: Tensor

    def train_subset(self, batch_size: int, workers: int = 0) -> Subset:
        """Return the images to train on, in order and without augmentation."""
        return Subset(self.dataset.train, self.train, self.dataset.spec, batch_size, workers)

    def validation_subset(self, batch_size: int, workers: int = 0) -> Subset:
        """Return the images that are held out; there may be none."""
        return Subset(self.dataset.train, self.validation, self.dataset.spec, batch_size, workers)

    def test_subset(self, batch_size: int, workers: int = 0) -> Subset:
        """Return the whole test part."""
        return full_test_subset(self.dataset, batch_size, workers)


def read_dataset(data: DataSettings) -> DataSet:
    """Load the data set that ``data`` names; all ranks must call it.

    Rank 0 loads first, so that files are downloaded once a machine, and notes the folder that was given.

    Raises:
        UsageError: If the name is unknown, or the folder is not given or has the wrong form.
        NotFoundError: If the images are not there.
        IntegrityError: If files are damaged.
    """
    dataset = in_turns(
        lambda: load_dataset(data.name, data.root, data.download, data.image_size, data.test, data.options)
    )
    if is_main_process():
        remember_folder(dataset.spec.digest, data)
    return dataset


def read_split(data: DataSettings) -> SplitData:
    """Load the data set that ``data`` names and split its training part; all ranks must call it.

    Raises:
        UsageError: If the data set cannot be split as the settings say, besides what ``read_dataset`` raises.
    """
    return split_dataset(read_dataset(data), data)


def split_dataset(dataset: DataSet, data: DataSettings) -> SplitData:
    """Split the training part of a data set that is loaded already.

    Raises:
        UsageError: If the data set cannot be split as the settings say.
    """
    names = dataset.spec.class_names
    subset = None if data.subset is None else (data.subset.seed, data.subset.half)
    split = split_indices(
        dataset.train.labels, len(names), data.validation, data.seed, data.train_samples, names, subset
    )
    return SplitData(dataset, *split)


def augmentation_of(data: DataSettings) -> Augmentation:
    """Return the augmentation of the training images that ``data`` asks for."""
    basic = Augmentation(data.crop_padding, data.padding_mode, data.flip)
    if data.augment is None:
        return basic
    crop = data.augment.random_resized_crop
    return replace(
        basic,
        resized_crop=None if crop is None else ResizedCrop(crop.scale, crop.ratio),
        policy=data.augment.policy,
        policy_options=data.augment.options,
        erasing=data.augment.erasing,
        mixup=data.augment.mixup,
        cutmix=data.augment.cutmix,
    )


def full_test_subset(
    dataset: DataSet, batch_size: int, workers: int = 0, normalised_as: DataSpec | None = None
) -> Subset:
    """Return the whole test part of ``dataset``.

    Args:
        dataset: Data set to measure on.
        batch_size: Images a batch, over all processes.
        workers: Loader processes.
        normalised_as: Description whose mean and deviation replace the data set's own.
    """
    spec = dataset.spec
    if normalised_as is not None:
        spec = replace(spec, mean=normalised_as.mean, std=normalised_as.std)
    return Subset(dataset.test, torch.arange(len(dataset.test)), spec, batch_size, workers)


def default_top_k(num_classes: int) -> int:
    """Return K of top score difference and secondary mass where no recipe gives one."""
    return min(_MOST_CLASSES_RANKED, num_classes)
