"""The sections of a recipe: every key with its type, its range and its default.

Types are strict: an integer passes for a number, but a text does not, nor does true or false for an integer.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from lineage.errors import UsageError
from lineage.recipe.limits import check_limits, shortened
from lineage.recipe.names import check_name, is_weights_file
from lineage.recipe.problems import FORMS, ProblemsError, describe

NetworkName = Literal[
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
    "densenet-bc-100-12",
    "densenet-bc-190-40",
    "wrn-16-2",
    "wrn-28-10",
    "wrn-40-2",
]
ObjectiveName = Literal["tolerant", "strict", "label-smoothing", "confidence-penalty"]
OptimizerName = Literal["sgd", "adamw", "lion", "lamb", "muon"]
ScheduleName = Literal["constant", "cosine", "step"]

STORED = "stored"


def _check_name(name: str, info: ValidationInfo) -> str:
    """Refuse names that would fail after the training, but read every name that a registry holds."""
    if not (info.context or {}).get(STORED):
        try:
            check_name(name)
        except UsageError as error:
            raise ValueError(str(error)) from None
    return name


ModelName = Annotated[
    str,
    Field(pattern=FORMS["a text that is not empty and holds neither '/' nor ':'"]),
    AfterValidator(_check_name),
]
PackageName = Annotated[str, Field(pattern=FORMS["'package:name'"])]
TorchvisionName = Annotated[str, Field(pattern=FORMS["'torchvision:NAME'"])]
# TOML gives lists where a frozen recipe holds tuples: only the container is converted, its items stay strict.
Milestones = Annotated[tuple[PositiveInt, ...], Field(strict=False)]


class Section(BaseModel):
    """Table of a recipe; the text below each key is its description in the schema and the documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def is_default(self, key: str) -> bool:
        """Return whether a key has its default."""
        default = type(self).model_fields[key].get_default(call_default_factory=True)
        return bool(getattr(self, key) == default)


class Sections(Section):
    """Several sections under their names: a recipe, or the part of one that a command reads."""

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], stored: bool = False) -> Self:
        """Validate sections.

        Args:
            settings: Tables of keys by section, as in a TOML file.
            stored: Whether they come from a registry, where names stay readable that are refused today.

        Raises:
            RecipeError: If a key is unknown or missing, or a value is invalid; the message names the first.
        """
        check_limits(settings)
        try:
            return cls.model_validate(settings, context={STORED: stored})
        except ValidationError as error:
            raise describe(error, cls) from None


class ModelSettings(Section):
    """The registered model of the family."""

    name: ModelName
    """Name of the registered model that holds the family: at most 200 characters, without '/' and ':'."""


class NetworkSettings(Section):
    """A network: that of every generation in [network], that of students in [student.network]."""

    name: NetworkName | TorchvisionName | PackageName
    """Network: a built-in name, torchvision:NAME, timm:NAME, or package:name of an installed package."""
    width: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Number of channels of the first stage; by default the network's own."""
    options: dict[str, bool | int | float | str] = {}
    """Further arguments of the network's builder, by name."""
    weights: str | None = None
    """Start of each generation that has the network: a safetensors file, or DEFAULT for weights of
    torchvision or timm; random by default. The last layer is new where classes differ."""
    strip_prefix: str | None = None
    """Beginning of every name in the file of weights to leave out, such as module."""

    def __str__(self) -> str:
        """Return name and options on one line, such as ``resnet8 (width=4)``."""
        options = ", ".join(f"{name}={value}" for name, value in self.builder_options.items())
        return f"{self.name} ({options})" if options else self.name

    @property
    def builder_options(self) -> dict[str, Any]:
        """Arguments of the network's builder beyond classes and input shape."""
        return self.options | ({} if self.width is None else {"width": self.width})

    @property
    def has_weights(self) -> bool:
        """Whether it starts from weights, and not from random ones."""
        return self.weights is not None or "weights" in self.options

    @model_validator(mode="after")
    def _require_each_once(self) -> Self:
        if self.width is not None and "width" in self.options:
            raise ValueError(
                f"The width of a network must be given once, but width is {self.width} and options.width is"
                f" {self.options['width']}; remove one."
            )
        if self.weights is not None and "weights" in self.options:
            raise ValueError("Weights of a network must be named once, as weights; remove options.weights.")
        if self.strip_prefix and not is_weights_file(self.weights or ""):
            raise ValueError("strip_prefix must come with a file as the network's weights; remove it.")
        return self


class PatriarchSettings(Section):
    """Loss of generation 0, which has no teacher."""

    objective: ObjectiveName | PackageName
    """Loss: a built-in name, or package:name of an installed package."""
    strictness: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Weight η of cross-entropy against the top score difference (tolerant); 1 for cross-entropy alone."""
    top_k: Annotated[int, Field(ge=2)] = 5
    """Number K of classes in the top score difference (tolerant), the most probable one included."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Weight ε of the uniform distribution in the labels (label-smoothing)."""
    penalty: NonNegativeFloat = 0.1
    """Weight β of the entropy that the loss rewards (confidence-penalty)."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options by name of an objective of a package, beside the settings above."""


class HandlerSettings(Section):
    """Handler of an installed package, attached to the engines of each generation."""

    name: PackageName
    """Name of the handler, package:name."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of the handler, by name."""


Handlers = Annotated[tuple[HandlerSettings, ...], Field(strict=False)]


class TrainingSettings(Section):
    """Optimisation of each generation."""

    epochs: Annotated[int, Field(ge=0, le=1_000_000)]
    """Number of passes through the training set."""
    batch_size: PositiveInt = 128
    """Number of samples in one optimizer step, over all processes and accumulated parts."""
    optimizer: OptimizerName | PackageName = "sgd"
    """Optimizer: a built-in name (lion and lamb need the extra timm), or package:name of a package."""
    optimizer_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of the optimizer by name, such as beta1 and beta2 (adamw)."""
    lr: PositiveFloat = 0.1
    """Highest learning rate of the schedule."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum factor (sgd)."""
    nesterov: bool = False
    """Whether momentum is Nesterov's (sgd)."""
    weight_decay: NonNegativeFloat = 5e-4
    """Factor of weight decay."""
    decay_norm_and_bias: bool = True
    """Whether weight decay acts on normalisation layers and biases as well."""
    schedule: ScheduleName | PackageName = "cosine"
    """Schedule of the learning rate: a built-in name, or package:name of an installed package."""
    milestones: Milestones = ()
    """Ascending epochs after which the learning rate is multiplied by gamma (step)."""
    gamma: PositiveFloat = 0.1
    """Factor of the learning rate at each milestone (step)."""
    schedule_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options by name of a schedule of a package, beside epochs, milestones and gamma."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Number of epochs, also a fraction, in which the learning rate rises linearly to its highest value."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient, to which longer ones are clipped; by default no clipping."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Floating-point format of the forward pass; bf16 and fp16 use autocast."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of averaged weights, which are evaluated and registered; by default no averaging."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Number of parts that a batch is computed in, to save memory; it must divide batch_size."""
    sync_batchnorm: bool = False
    """Whether BatchNorm computes its statistics over all processes; on GPUs only."""
    balance_classes: bool = False
    """Whether an epoch shows all classes equally often: images of small classes come again, and some of large
    classes are left out."""
    freeze_stages: NonNegativeInt = 0
    """Number of first stages that keep the weights that the network starts from (network.weights)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each stage to the one before it, the head having lr, in a network that
    starts from weights."""
    validate_every: PositiveInt = 1
    """Number of epochs from one validation to the next; the last epoch is validated as well."""
    patience: PositiveInt | None = None
    """Number of epochs without a higher validation accuracy after which training ends early; by default it
    never does."""
    handlers: Handlers = ()
    """Handlers and metrics of installed packages, attached to training and validation; by default none."""

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if problems := list(self.contradictions()):
            raise ProblemsError(problems)
        return self

    def contradictions(self) -> Iterator[str]:
        """Yield what keys of the section contradict in others, one sentence each."""
        if self.nesterov and self.momentum == 0:
            yield "training.nesterov needs a training.momentum greater than 0, but got 0."
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            found = shortened(str(list(self.milestones)))
            yield f"training.milestones must be ascending, but got {found}."
        if self.schedule == "step" and not self.milestones:
            yield "training.schedule 'step' needs training.milestones, a list of epochs, but got none."
        if self.batch_size % self.accumulation:
            yield (
                "training.batch_size must be divisible by training.accumulation, "
                f"but got {self.batch_size} and {self.accumulation}."
            )
        if self.patience is not None and self.patience >= self.epochs:
            yield (
                f"training.patience must be less than training.epochs, {self.epochs}, or it ends nothing, but"
                f" got {self.patience}; lower it or leave it out."
            )
