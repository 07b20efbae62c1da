"""The section ``[study]``: the space of a study, and how trials are chosen and compared.

It is no part of a recipe's digest: what a study tries does not change what a generation depends on.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

from lineage.errors import suggestion
from lineage.recipe.keys import number_type, resolve_key
from lineage.recipe.limits import shortened
from lineage.recipe.problems import ProblemsError
from lineage.recipe.sections import Section

SamplerName = Literal["tpe", "gp", "cmaes", "grid", "random", "qmc", "nsgaii"]
PrunerName = Literal[
    "median", "percentile", "hyperband", "successive-halving", "patient", "threshold", "none"
]
ObjectiveMetric = Literal["accuracy", "top5_accuracy", "cross_entropy", "calibration", "seconds"]

Options = dict[str, bool | int | float | str]
Number = int | FiniteFloat
Scalar = bool | int | FiniteFloat | str
Choices = tuple[Scalar, ...]

MOST_STEPS = 1_000_000

_TEST = ("test_", "ensemble_")


class Range(Section):
    """Range of numbers from low to high, both included."""

    low: Number
    """Lowest value, included."""
    high: Number
    """Highest value, included."""
    step: Annotated[Number, Field(gt=0)] | None = None
    """Distance between neighbouring values, counted from low; without it, any value in between."""
    log: bool = False
    """Whether values are drawn uniformly by their logarithms; needs a low greater than 0 and no step."""

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must be at most high, but got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be greater than 0 with log, but got {self.low}")
        if self.log and self.step is not None:
            raise ValueError(f"step and log exclude each other, but got step {self.step} and log")
        if self.step is not None and (self.high - self.low) / self.step > MOST_STEPS:
            raise ValueError(
                f"low and high must be at most {MOST_STEPS:,} steps apart, but are {self.low} and {self.high}"
                f" with step {self.step}"
            )
        return self


def _shown(value: Any) -> str:
    return shortened(repr(value))


def _read_objective(given: Any) -> Any:
    """Read names of metrics from a list, or from one text with commas, with or without ``validation_``."""
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"study.objective must be a metric, or several between commas, but got {_shown(given)}."
        )
    short = [name.removeprefix("validation_").removesuffix("_error") for name in names]
    for name in short:
        if name.startswith(_TEST):
            raise ValueError(
                f"study.objective must be measured on the validation part, but got '{shortened(name)}': what"
                " is chosen by the test images cannot be measured with them any more; take 'accuracy'."
            )
        if name not in get_args(ObjectiveMetric):
            known = get_args(ObjectiveMetric)
            raise ValueError(
                f"study.objective must be {', '.join(known[:-1])} or {known[-1]}, but got"
                f" '{shortened(name)}'.{suggestion(name, known)}"
            )
    if len(set(short)) != len(short) or not short:
        raise ValueError(f"study.objective must name each metric once, but got {_shown(given)}.")
    return tuple(short)


class StudySettings(Section):
    """Search of `lineage study` over variants of this recipe."""

    objective: Annotated[tuple[ObjectiveMetric, ...], BeforeValidator(_read_objective)] = ("accuracy",)
    """Validation metric of the last generation to optimise; several metrics give a Pareto front."""
    sampler: SamplerName = "tpe"
    """Optuna's sampler, which draws the values of each trial."""
    sampler_options: Options = Field(default_factory=dict)
    """Further arguments of Optuna's sampler, by name."""
    pruner: PrunerName | None = None
    """Optuna's pruner, which ends hopeless trials; by default median, or none with the grid sampler."""
    pruner_options: Options = Field(default_factory=dict)
    """Further arguments of Optuna's pruner, by name."""
    trials: Annotated[int, Field(gt=0)] | None = None
    """Number of trials over all workers and sessions; by default 20, or the whole grid."""
    seed: NonNegativeInt = 0
    """Seed of the sampler; the same seed draws the same values."""
    heartbeat: Annotated[int, Field(ge=1, le=1_000_000)] = 60
    """Seconds between two signs of life that a worker writes to the study's database."""
    grace: Annotated[int, Field(ge=1, le=1_000_000)] = 120
    """Seconds without a sign of life after which a worker counts as dead; more than heartbeat."""
    retries: NonNegativeInt = 3
    """Number of times that a trial whose worker died is tried again."""
    space: dict[str, Choices | Range] = Field(default_factory=dict)
    """Recipe keys that vary, each with a list of choices or a table of low, high, step and log."""

    @field_validator("space", mode="before")
    @classmethod
    def _read_space(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError(f"study.space must be a table of recipe keys, but got {_shown(given)}.")
        space: dict[str, Choices | Range] = {}
        problems = []
        for name, axis in flat_axes(given):
            try:
                key = resolve_key(name)
                if key in space:
                    raise ValueError(f"study.space must name each recipe key once, but has {key} twice.")
                space[key] = _read_axis(key, axis)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ProblemsError(problems)
        return space

    @property
    def pruner_in_use(self) -> PrunerName:
        """Pruner in use: the chosen one, or else median, or none for a grid; none for several objectives."""
        if len(self.objective) > 1:
            return "none"
        return self.pruner or ("none" if self.sampler == "grid" else "median")

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.grace <= self.heartbeat:
            raise ValueError(
                f"study.grace must be greater than study.heartbeat, but got {self.grace} and"
                f" {self.heartbeat}."
            )
        return self


def flat_axes(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys with their axes; TOML reads a dotted key that is not quoted as a table in a table."""
    for name, value in table.items():
        if isinstance(value, Mapping) and not {"low", "high"} & value.keys():
            yield from flat_axes(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _read_axis(key: str, given: Any) -> Choices | Range:
    if isinstance(given, Range):
        return given
    if isinstance(given, Mapping):
        return _read_range(key, given)
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(
            f"study.space.{key} must be a list of choices or a table of low and high, but got"
            f" {_shown(given)}."
        )
    for value in given:
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"A choice of study.space.{key} must be one value, but got {_shown(value)}.")
    return tuple(given)


def _read_range(key: str, given: Mapping[str, Any]) -> Range:
    try:
        found = Range.model_validate(given)
    except ValidationError as error:
        raise ValueError(_range_problem(key, error)) from None
    kind = number_type(key)
    if kind is None:
        raise ValueError(f"study.space.{key} must be a list of choices, since {key} is no number.")
    ends = (found.low, found.high, found.step or 1)
    if kind is int and not all(isinstance(end, int) for end in ends):
        raise ValueError(
            f"study.space.{key} must be a range of integers, as {key} is, but got {_shown(dict(given))}."
        )
    return found


def _range_problem(key: str, error: ValidationError) -> str:
    """Return the problem of a range as a sentence."""
    # a mistyped key first: it explains why another is missing
    detail = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    field = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        near = suggestion(field, Range.model_fields)
        return f"study.space.{key} takes low, high, step and log, but got '{shortened(field)}'.{near}"
    if detail["type"] == "missing":
        return f"study.space.{key} must have low and high, but lacks {field}."
    if detail["type"] == "value_error":
        return f"In study.space.{key}, {detail['ctx']['error']}."
    wanted = (
        "true or false" if field == "log" else "a number greater than 0" if field == "step" else "a number"
    )
    return f"study.space.{key}.{field} must be {wanted}, but got {_shown(detail['input'])}."
