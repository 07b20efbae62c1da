"""A family as one text without weights: what tables and figures are made of, read without any store.

The text is JSON; ``docs/reference/family-record.md`` describes it. Imports no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from pydantic import Field, TypeAdapter

from lineage.errors import IntegrityError, NotFoundError
from lineage.formats import read_problem
from lineage.registry.family.family import Family, Version
from lineage.registry.family.lookup import family_of
from lineage.registry.store.predicted import Predictions
from lineage.registry.store.predictions_file import PREDICTIONS_FILE, parse_predictions

KIND = "lineage-family"

_FORMAT = 1
_MOST_SUPERCLASSES = 2**20
_BEGINNING = f'{{"kind": "{KIND}"'  # what a text of a record starts with


@dataclass(frozen=True)
class DataRecord:
    """The data set of a version.

    Attributes:
        name: Name of the data set in a recipe.
        class_names: Class names in the order of the labels.
        superclasses: Superclass of each class; None if the data set has none.
        input_shape: Shape (C, H, W) of the network's input.
        digest: SHA-256 of the contents.
    """

    name: str
    class_names: tuple[str, ...]
    superclasses: tuple[Annotated[int, Field(ge=0, le=_MOST_SUPERCLASSES)], ...] | None
    input_shape: tuple[int, int, int]
    digest: str

    def __post_init__(self) -> None:
        if self.superclasses is not None and len(self.superclasses) != len(self.class_names):
            raise ValueError(
                f"there must be {len(self.class_names)} superclasses, not {len(self.superclasses)}"
            )


@dataclass(frozen=True)
class History:
    """Metrics by epoch, to six digits; of more than 100 epochs, about every so many one and the last.

    Attributes:
        epochs: Epochs, shape (E,).
        values: One value an epoch by metric; None where none was logged, or it was no finite number.
    """

    epochs: tuple[int, ...] = ()
    values: dict[str, tuple[float | None, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            if len(values) != len(self.epochs):
                raise ValueError(f"'{name}' must have {len(self.epochs)} values, not {len(values)}")


@dataclass(frozen=True)
class TransferRecord:
    """Test accuracy of a version on another data set.

    Attributes:
        target: Name of the data set.
        probe: Classifier on the features, or ``finetune``.
        accuracy: Share of the target's test images.
    """

    target: str
    probe: str
    accuracy: float


@dataclass(frozen=True)
class VersionRecord:
    """A model version without its weights.

    Attributes:
        number: MLflow's version number.
        created: Time of registration, in milliseconds since the epoch.
        model_id: Id of its logged model.
        run_id: Id of the run that trained it.
        tags: All its tags: edges, metrics and digests.
        aliases: Aliases that point to it.
        settings: Resolved recipe that it was grown from, without the folder of its images; empty for an
            adopted network.
        data: Digest of its data set, a key of ``FamilyRecord.data``; "" if unknown.
        history: Metrics by epoch.
        transfers: Results on other data sets.
        predictions: Contents of ``predictions.json``; None if there is no such file.
    """

    number: Annotated[int, Field(ge=1)]
    created: int
    model_id: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    history: History = History()
    transfers: tuple[TransferRecord, ...] = ()
    predictions: dict[str, Any] | None = None


@dataclass(frozen=True)
class FamilyRecord:
    """A registered model with its versions, without weights.

    Attributes:
        name: Name of the registered model.
        versions: Versions by number.
        data: Data sets of the versions by digest.
    """

    name: str
    versions: tuple[VersionRecord, ...]
    data: dict[str, DataRecord] = field(default_factory=dict)

    @cached_property
    def family(self) -> Family:
        """The versions as they are read from a store.

        Raises:
            IntegrityError: If tags were altered.
        """
        return family_of(self.name, [_entity(self.name, version) for version in self.versions])

    def data_of(self, version: Version) -> DataRecord | None:
        """Return the data set of a version of the family; None if unknown."""
        return self.data.get(self._record(version).data)

    def transfers_of(self, version: Version) -> tuple[TransferRecord, ...]:
        """Return results of a version on other data sets."""
        return self._record(version).transfers

    def predictions_of(self, version: Version) -> Predictions | None:
        """Return what a version predicted on its test part; None if that was not kept.

        Raises:
            IntegrityError: If it is damaged, or is of other classes than its data set.
        """
        found, data = self._record(version).predictions, self.data_of(version)
        if found is None:
            return None
        subject = f"{PREDICTIONS_FILE} of {version.uri}"
        predicted = parse_predictions(json.dumps(found), subject)
        if data is not None and predicted.num_classes != len(data.class_names):
            raise IntegrityError(
                f"{subject} must be of {len(data.class_names)} classes, as its data set, but is of"
                f" {predicted.num_classes}; restore it."
            )
        return predicted

    def _record(self, version: Version) -> VersionRecord:
        return next(record for record in self.versions if record.number == version.version)


@dataclass(frozen=True)
class _Text:
    kind: str
    format: int


_TEXT = TypeAdapter(_Text)
_RECORD = TypeAdapter(FamilyRecord)


def record_text(record: FamilyRecord) -> str:
    """Return the text of a family; equal families give equal texts, one line a version."""
    plain = asdict(record)
    versions = ",\n".join(map(_line, plain["versions"]))
    head = f'{_BEGINNING}, "format": {_FORMAT}, "name": {_line(record.name)}'
    return f'{head},\n"data": {_line(plain["data"])},\n"versions": [\n{versions}\n]}}\n'


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def is_record(file: Path) -> bool:
    """Tell whether a file begins as ``record_text`` does."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_BEGINNING)) == _BEGINNING.encode()


def read_record(file: Path) -> FamilyRecord:
    """Read a file that ``lineage pack --without-weights`` wrote; all that it holds is checked.

    Raises:
        NotFoundError: If there is no such file.
        IntegrityError: If it is damaged, or a later version of the tool wrote it.
    """
    if not file.is_file():
        raise NotFoundError(f"FILE must be a family without weights, but '{file}' is no file.")
    try:
        content = file.read_bytes()
        found = _TEXT.validate_json(content)
        if found.kind != KIND:
            raise ValueError(f"'kind': it must be '{KIND}', not '{found.kind}'")
        if found.format > _FORMAT:
            raise IntegrityError(
                f"The format of '{file}' must be at most {_FORMAT}, but is {found.format}; update lineage."
            )
        record = _RECORD.validate_json(content)
        _require_consistent(record)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"'{file}' must be what 'lineage pack --without-weights' wrote, but cannot be read"
            f" ({read_problem(error)}); pack it again."
        ) from error
    return record


def _require_consistent(record: FamilyRecord) -> None:
    """Refuse versions whose tags, data and predictions do not fit each other.

    Raises:
        IntegrityError: If tags or predictions are damaged.
        ValueError: If they do not fit.
    """
    numbers = [version.number for version in record.versions]
    if len(set(numbers)) != len(numbers) or not record.name or set(record.name) & set("/:"):
        raise ValueError(f"'{record.name}' must be the name of a model with different numbers of versions")
    if len(record.family) != len(record.versions):
        raise ValueError("every version must have the tags that lineage gave it")
    for version in record.family:
        record.predictions_of(version)


def _entity(name: str, record: VersionRecord) -> ModelVersion:
    return ModelVersion(
        name,
        str(record.number),
        record.created,
        source=f"models:/{record.model_id}",
        run_id=record.run_id,
        tags=[ModelVersionTag(key, value) for key, value in record.tags.items()],
        aliases=list(record.aliases),
    )


def make_history(points: Mapping[str, Mapping[int, float | None]], most: int = 100) -> History:
    """Return the history of values by metric and epoch, with at most about ``most`` epochs."""
    epochs = sorted({epoch for by_epoch in points.values() for epoch in by_epoch})
    stride = -(-len(epochs) // most) or 1
    kept = epochs[::-1][::stride][::-1]
    values = {name: tuple(by_epoch.get(epoch) for epoch in kept) for name, by_epoch in sorted(points.items())}
    return History(tuple(kept), values)
