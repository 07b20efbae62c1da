"""The section ``[data]`` of a recipe: the data set, its split and its augmentation."""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    model_validator,
)

from lineage.recipe.limits import shortened
from lineage.recipe.problems import FORMS
from lineage.recipe.sections import PackageName, Section

DataSetName = Literal["digits", "cifar10", "cifar100", "imagefolder", "imagenet"]
PolicyName = Literal["trivial", "rand"]
HubName = Annotated[str, Field(pattern=FORMS["'hub:owner/name'"])]

FIRST_IMAGE_SIZE = 224
"""Default of ``data.image_size`` in the first recipes, which images in memory ignored."""
MOST_WORKERS = 1_024


class SubsetSettings(Section):
    """One of two halves of the training images, each with half of every class."""

    seed: NonNegativeInt
    """Seed of the division into halves."""
    half: Annotated[int, Field(ge=0, le=1)]
    """Half to train on; the other one has the rest of the images."""


def _check_pair(values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    if len(values) != 2 or values[0] > values[1]:
        raise ValueError(
            f"data.augment.random_resized_crop.{info.field_name} must be two numbers, the smaller one first,"
            f" but got {shortened(str(list(values)))}."
        )
    return values


Shares = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(strict=False), AfterValidator(_check_pair)
]
Ratios = Annotated[tuple[PositiveFloat, ...], Field(strict=False), AfterValidator(_check_pair)]


class CropSettings(Section):
    """A random part of the image, resized to the network's input."""

    scale: Shares = (0.08, 1.0)
    """Least and largest area of the part, as shares of the image's."""
    ratio: Ratios = (3 / 4, 4 / 3)
    """Least and largest ratio of the part's width to its height."""


class AugmentSettings(Section):
    """Augmentation beyond a padded crop and a flip."""

    random_resized_crop: CropSettings | None = None
    """Random part of the image, resized; by default {scale = [0.08, 1]} where images are streamed, and none
    where they are in memory."""
    policy: PolicyName | PackageName | None = None
    """Distortions of shape and colours: torchvision's TrivialAugment (trivial) or RandAugment (rand), or
    package:name of an installed package."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of the policy by name, such as num_ops and magnitude (rand)."""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability with which a random rectangle of a view is filled with the mean colour; 0 for never."""
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Parameter α of mixup: a view is blended with that of another training image, with a weight from
    Beta(α, α), and so are their labels; 0 for none. With cutmix as well, each view gets one of them."""
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Parameter α of CutMix: a rectangle of the view of another training image is pasted, with a share from
    Beta(α, α), and labels are mixed by area; 0 for none."""


def _without_defaults(augment: AugmentSettings | None) -> AugmentSettings | None:
    """Return None for a table that sets nothing, which is no other recipe than without it."""
    return None if augment == AugmentSettings() else augment


class DataSettings(Section):
    """The data set, its split and its augmentation."""

    name: DataSetName | HubName | PackageName
    """Data set: a built-in name, hub:owner/name of the Hugging Face Hub, or package:name of a package."""
    root: str | None = None
    """Folder that holds the data; not needed for digits."""
    download: bool = False
    """Whether missing data may be downloaded."""
    test: Annotated[str, Field(pattern=FORMS["the name of a part of the data set"])] | None = None
    """Part of the data set that is held for test, as in its files; by default the first that has labels."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options by name of a data set of a package."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training set held out for validation, stratified by class; 0 for none and no 'best'."""
    seed: NonNegativeInt = 0
    """Seed of split and augmentation, the same for the whole family."""
    train_samples: PositiveInt | None = None
    """Number of training samples to use, stratified by class; by default all."""
    subset: SubsetSettings | None = None
    """Half of those samples to train on, such as {seed = 1, half = 0}; by default both halves."""
    image_size: Annotated[int, Field(ge=1, le=16_384)] | None = None
    """Height and width in pixels: by default 224 where images are streamed; those in memory keep their own,
    or are averaged over blocks to one that divides it."""
    crop_padding: Annotated[int, Field(ge=0, le=1_024)] = 0
    """Pixels of padding on each side before a random crop; 0 for no crop."""
    padding_mode: Literal["reflect", "zeros"] = "reflect"
    """Content of the padding of a random crop: the reflected image, or zeros."""
    flip: bool = False
    """Whether each training image is mirrored left to right with probability 1/2."""
    augment: Annotated[AugmentSettings | None, AfterValidator(_without_defaults)] = None
    """Further augmentation, such as {erasing = 0.25}; by default none."""
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] = 0
    """Number of processes that load images; it does not influence results."""

    @property
    def recorded_image_size(self) -> int:
        """``image_size`` as digests and runs record it: 224, its first default, where it is absent."""
        return FIRST_IMAGE_SIZE if self.image_size is None else self.image_size

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.crop_padding and self.augment is not None and self.augment.random_resized_crop is not None:
            raise ValueError(
                f"data.crop_padding has no effect where data.augment.random_resized_crop is set, but is"
                f" {self.crop_padding}; leave one of them out."
            )
        if self.augment is not None and self.augment.options and self.augment.policy is None:
            raise ValueError(
                "data.augment.options has no effect without data.augment.policy, but has"
                f" {shortened(', '.join(self.augment.options))}; set the policy or leave them out."
            )
        return self
