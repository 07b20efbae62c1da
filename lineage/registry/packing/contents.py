"""The contents of a packed family: plain values, each kept as a JSON file."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import StringConstraints

FORMAT = 1
WITHOUT_WEIGHTS_TAG = "lineage.without_weights"  # of a registered model unpacked from a file without any

Id = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=256)]  # a file's name


@dataclass(frozen=True)
class PackedVersion:
    """A model version.

    Attributes:
        number: MLflow's version number in the store that it comes from.
        run_id: Id of the run that trained it.
        model_id: Id of its logged model.
        description: Its card.
        tags: All its tags.
    """

    number: int
    run_id: str
    model_id: Id
    description: str
    tags: dict[str, str]


@dataclass(frozen=True)
class PackedFamily:
    """A registered model with its versions.

    Attributes:
        format: Version of this format.
        name: Name of the registered model.
        description: Its description.
        tags: All its tags, of which the log and the tombstones are some.
        aliases: Version numbers by alias.
        with_weights: Whether the models' weights are packed.
        versions: Versions by number.
    """

    format: int
    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, int]
    with_weights: bool
    versions: tuple[PackedVersion, ...]


@dataclass(frozen=True)
class PackedMetric:
    """One value of a metric.

    Attributes:
        key: Name of the metric.
        value: Its value, as text, since JSON has no infinities.
        timestamp: Time in milliseconds since the epoch.
        step: Epoch.
        model_id: Id of the logged model that the value is also a metric of; "" for none.
        dataset: Name and digest of the data set it was measured on, or ("", "").
    """

    key: str
    value: str
    timestamp: int
    step: int
    model_id: str = ""
    dataset: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class PackedDataset:
    """A dataset input of a run, with MLflow's fields and tags."""

    name: str
    digest: str
    source_type: str
    source: str
    tags: dict[str, str]


@dataclass(frozen=True)
class PackedRun:
    """A run.

    Attributes:
        run_id: Id of the run.
        name: Name in the table of runs.
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        start: Start in milliseconds since the epoch.
        end: End, likewise.
        params: Parameters.
        tags: All its tags.
        metrics: History of its metrics.
        datasets: Its dataset inputs.
        inputs: Ids of logged models that are its inputs.
        outputs: Ids of logged models that are its outputs, and the step of each.
    """

    run_id: Id
    name: str
    status: str
    start: int
    end: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: tuple[PackedMetric, ...] = ()
    datasets: tuple[PackedDataset, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class PackedModel:
    """A logged model.

    Attributes:
        model_id: Id of the model.
        name: Its name.
        model_type: Its type.
        run_id: Id of the run that logged it.
        params: Parameters.
        tags: All its tags.
    """

    model_id: Id
    name: str
    model_type: str
    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """Everything of a packed family but its files."""

    family: PackedFamily
    runs: tuple[PackedRun, ...]
    models: tuple[PackedModel, ...]
