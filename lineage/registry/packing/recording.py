"""Reading of a family from the store as a record: tags, settings, histories and predictions. No torch."""

import math
from collections.abc import Mapping
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from pydantic import TypeAdapter

from lineage.errors import IntegrityError, NotFoundError
from lineage.formats import read_problem
from lineage.registry.family.family import Version, from_model_version
from lineage.registry.family.tags import TAG
from lineage.registry.packing.record import (
    DataRecord,
    FamilyRecord,
    History,
    TransferRecord,
    VersionRecord,
    make_history,
)
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.files import fetch_files
from lineage.registry.store.predictions_file import PREDICTIONS_FILE
from lineage.registry.store.runs import RECIPE_FILE
from lineage.registry.store.search import read_model_with_versions
from lineage.registry.store.transfers import read_transfer_accuracies

STRUCTURE_FILE = "lineage.json"
MEASURED_FILES = (STRUCTURE_FILE, RECIPE_FILE, PREDICTIONS_FILE)
"""Files that tell what a version was measured on, and what it predicted there."""

_DIGITS = ".6g"
_OBJECT = TypeAdapter(dict[str, Any])
_DATA = TypeAdapter(DataRecord)


@translated_errors()
def record_family(name: str, with_history: bool = True) -> FamilyRecord:
    """Read the record of a family from the store in use.

    Versions that ``lineage`` did not make are left out.

    Args:
        name: Name of the registered model.
        with_history: Whether to read metrics by epoch, which takes one request a metric.

    Raises:
        NotFoundError: If the store holds no such model.
        IntegrityError: If tags or files of a version are damaged.
        RegistryError: If the store does not answer.
    """
    transfers = read_transfer_accuracies(name)
    versions, data = [], {}
    for entity in read_model_with_versions(name).versions:
        version = from_model_version(entity, tuple(entity.aliases))
        if version is None:
            continue
        files = fetch_files(version.model_id, MEASURED_FILES)
        described = data_in(files, version.uri)
        if described is not None:
            data[described.digest] = described
        versions.append(
            VersionRecord(
                number=version.version,
                created=version.created,
                model_id=version.model_id,
                run_id=version.run_id,
                tags=_own_tags(entity),
                aliases=version.aliases,
                settings=settings_in(files, version.uri),
                data="" if described is None else described.digest,
                history=_read_history(version) if with_history else History(),
                transfers=tuple(
                    TransferRecord(*where, accuracy)
                    for where, accuracy in sorted(transfers.get(version.model_id, {}).items())
                ),
                predictions=_read_object(files, PREDICTIONS_FILE, version.uri),
            )
        )
    return FamilyRecord(name, tuple(versions), data)


def _own_tags(entity: ModelVersion) -> dict[str, str]:
    return {key: value for key, value in sorted(entity.tags.items()) if key.startswith(TAG)}


def data_in(files: Mapping[str, bytes], uri: str) -> DataRecord | None:
    """Return the data set of a version from its files by name; None if they do not tell.

    Raises:
        IntegrityError: If the file that tells it is damaged.
    """
    structure = _read_object(files, STRUCTURE_FILE, uri)
    if structure is None:
        return None
    try:
        return _DATA.validate_python(structure.get("data"))
    except ValueError as error:
        raise _damaged(uri, STRUCTURE_FILE, error) from error


def settings_in(files: Mapping[str, bytes], uri: str) -> dict[str, Any]:
    """Return the resolved recipe of a version from its files by name; empty for an adopted network.

    The folder of its images is left out, since it concerns one machine.

    Raises:
        IntegrityError: If it is no JSON object.
    """
    settings = _read_object(files, RECIPE_FILE, uri) or {}
    data = settings.get("data")
    return settings | {"data": {**data, "root": None}} if isinstance(data, dict) else settings


def _read_object(files: Mapping[str, bytes], name: str, uri: str) -> dict[str, Any] | None:
    if name not in files:
        return None
    try:
        return _OBJECT.validate_json(files[name])
    except ValueError as error:
        raise _damaged(uri, name, error) from error


def _damaged(uri: str, name: str, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"{name} of {uri} must be what lineage wrote, but is not ({read_problem(error)}); restore it."
    )


def _read_history(version: Version) -> History:
    """Return metrics by epoch of a version's run, without those of which it has one value, its last."""
    if not version.run_id:
        return History()
    client = connect()
    points: dict[str, dict[int, float | None]] = {}
    try:
        with translated_errors():
            run = client.get_run(version.run_id)
    except NotFoundError:  # deleted for good, as by 'mlflow gc'
        return History()
    for key in sorted(run.data.metrics):
        found = {point.step: point.value for point in client.get_metric_history(version.run_id, key)}
        if len(found) > 1 or key not in version.metrics:
            points[key] = {
                step: float(format(value, _DIGITS)) if math.isfinite(value) else None
                for step, value in found.items()
            }
    return make_history(points)
