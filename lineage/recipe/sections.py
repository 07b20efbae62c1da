"""The sections of a recipe: every key, its type, its range and its default.

Types are strict: an integer passes for a number, but a text never does, nor a truth value for an integer.
"""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from lineage.recipe.problems import FORMS

DataSetName = Literal["digits", "cifar10", "cifar100", "imagefolder", "imagenet"]
NetworkName = Literal[
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "densenet-bc-100-12",
    "densenet-bc-190-40",
    "wrn-16-2",
    "wrn-28-10",
    "wrn-40-2",
]
ObjectiveName = Literal["tolerant", "strict", "label-smoothing", "confidence-penalty"]
ScheduleName = Literal["constant", "cosine", "step"]

ModelName = Annotated[str, Field(pattern=FORMS["a text that is not empty and holds neither '/' nor ':'"])]
PackageName = Annotated[str, Field(pattern=FORMS["'package:name'"])]
HubName = Annotated[str, Field(pattern=FORMS["'hub:owner/name'"])]
TorchvisionName = Annotated[str, Field(pattern=FORMS["'torchvision:NAME'"])]
LabelWeight = Annotated[float, Field(ge=0, le=1)]
# TOML gives lists where a frozen recipe holds tuples: only the container is converted, its items stay strict.
LabelWeights = Annotated[tuple[LabelWeight, ...], Field(strict=False, min_length=1)]
Milestones = Annotated[tuple[PositiveInt, ...], Field(strict=False)]


class Section(BaseModel):
    """A table of a recipe; the text below each key is its description in the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelSettings(Section):
    """Where the family is registered."""

    name: ModelName
    """Registered model that holds the family."""


class DataSettings(Section):
    """What the networks see."""

    name: DataSetName | HubName | PackageName
    """Data set: a shipped one, hub:owner/name, or package:name of an installed package."""
    root: str | None = None
    """Folder that holds the data; digits needs none."""
    download: bool = False
    """Whether data that is missing may be downloaded."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training set that is held out, stratified by class. With 0 there is no alias 'best'."""
    seed: NonNegativeInt = 0
    """Fixes split and augmentation for the whole family."""
    train_samples: PositiveInt | None = None
    """Number of training samples to use, stratified by class; all, if absent."""
    image_size: PositiveInt = 224
    """Height and width, in pixels, of images that are streamed from files."""
    crop_padding: NonNegativeInt = 0
    """Pixels added on each side before a random crop; 0 for no crop."""
    padding_mode: Literal["reflect", "zeros"] = "reflect"
    """What the padding of a random crop is filled with."""
    flip: bool = False
    """Whether training images are mirrored left to right, each with probability 1/2."""
    workers: NonNegativeInt = 0
    """Processes that load images; without influence on the results."""


class NetworkSettings(Section):
    """What every generation is built like."""

    name: NetworkName | TorchvisionName | PackageName
    """Network: a shipped one, torchvision:NAME, or package:name of an installed package."""
    width: PositiveInt | None = None
    """Channels of the first stage; the network's own default, if absent."""
    options: dict[str, bool | int | float | str] = {}
    """Further arguments of the network's builder."""


class PatriarchSettings(Section):
    """How generation 0, which has no teacher, is trained."""

    objective: ObjectiveName | PackageName
    """Loss: a shipped one, or package:name of an installed package."""
    strictness: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Weight η of cross-entropy against the top score difference (tolerant); 1 is a strict patriarch."""
    top_k: Annotated[int, Field(ge=2)] = 5
    """Number K of top classes in the top score difference (tolerant)."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Weight ε of the uniform distribution (label-smoothing)."""
    penalty: NonNegativeFloat = 0.1
    """Weight β of the entropy (confidence-penalty)."""


class StudentSettings(Section):
    """How every later generation learns from labels and teacher."""

    label_weight: LabelWeight | LabelWeights
    """Weight λ of labels against teacher. Of a list each student has its own, and the last value holds on."""
    temperature: PositiveFloat = 1.0
    """Divisor T of the teacher's and the student's logits."""
    soft_targets: Literal["live", "stored"] = "live"
    """Whether the teacher looks at every batch, or its answers are stored once for all its students."""
    views: PositiveInt | None = None
    """Number of views of each training image, after which they come again; one for every epoch, if absent."""
    soft_target_classes: PositiveInt | None = None
    """Number of largest classes that stored soft targets keep, at this temperature alone; all, if absent."""

    def label_weight_for(self, generation: int) -> float:
        """Weight of the labels for the student of ``generation``, which counts from 1.

        Raises:
            ValueError: If ``generation`` is less than 1: a patriarch has no teacher to weigh labels against.
        """
        if generation < 1:
            raise ValueError(f"generation must be at least 1, the first student, but got {generation}.")
        if isinstance(self.label_weight, float):
            return self.label_weight
        return self.label_weight[min(generation, len(self.label_weight)) - 1]


class TrainingSettings(Section):
    """How each generation is optimised."""

    epochs: NonNegativeInt
    """Passes through the training set."""
    batch_size: PositiveInt = 128
    """Samples of one optimizer step, over all processes and accumulated parts."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Update rule."""
    lr: PositiveFloat = 0.1
    """Learning rate at its highest."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum (sgd)."""
    nesterov: bool = False
    """Whether the momentum is Nesterov's (sgd)."""
    weight_decay: NonNegativeFloat = 5e-4
    """Pull of the weights towards 0."""
    decay_norm_and_bias: bool = True
    """Whether weight decay acts on normalisation layers and biases as well."""
    schedule: ScheduleName | PackageName = "cosine"
    """Course of the learning rate: a shipped one, or package:name of an installed package."""
    milestones: Milestones = ()
    """Epochs, ascending, after which the learning rate is multiplied by gamma (step)."""
    gamma: PositiveFloat = 0.1
    """Factor of the learning rate at each milestone (step)."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs, or a part of one, in which the learning rate rises linearly to its highest."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; not clipped, if absent."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward pass; all but fp32 by autocast."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay, a step, of averaged weights, which are then those evaluated and registered; none, if absent."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Parts that a batch is cut into, where memory is short."""
    sync_batchnorm: bool = False
    """Whether BatchNorm sees the batches of all processes as one; on GPUs."""

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("training.nesterov needs a training.momentum greater than 0, but got 0.")
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"training.milestones must be ascending, but got {list(self.milestones)}.")
        if self.schedule == "step" and not self.milestones:
            raise ValueError(
                "training.schedule 'step' needs training.milestones, a list of epochs, but got none."
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                "training.batch_size must be divisible by training.accumulation, "
                f"but got {self.batch_size} and {self.accumulation}."
            )
        return self


class SuccessionSettings(Section):
    """How far the family grows."""

    generations: NonNegativeInt = 2
    """Number of students after the patriarch."""
    seed: NonNegativeInt = 0
    """Fixes, together with a generation's index, its first weights and the order of its samples."""
