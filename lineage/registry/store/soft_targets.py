"""Stored soft targets in MLflow: artifacts of a run that a tag of the teacher's version names.

Loading a model downloads none of them; a student of the version finds them. Imports no torch.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from pydantic import StringConstraints, TypeAdapter

from lineage.errors import IntegrityError, NotFoundError
from lineage.formats import read_problem
from lineage.registry.family.family import Version
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.runs import GenerationRun, NamedData, metrics_now, start_run

SOFT_TARGETS_TAG = TAG + "signals."
SOFT_TARGETS_KIND = "signals"
FOLDER = "signals"

_DIGITS_IN_TAG = 16

RunId = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=256)]


@dataclass(frozen=True)
class SoftTargetsEntry:
    """The contents of a teacher's tag that names its stored soft targets.

    Attributes:
        run_id: Id of the run whose artifacts they are.
        views: Number of views stored.
        temperature: The only temperature that they serve; None if they serve any.
    """

    run_id: RunId
    views: int
    temperature: float | None = None


_ENTRY = TypeAdapter(SoftTargetsEntry)


@translated_errors()
def find_soft_targets(version: Version, digest: str) -> SoftTargetsEntry | None:
    """Return the soft targets of ``version`` stored under ``digest``; None if there are none any more.

    Raises:
        IntegrityError: If the tag was altered.
        RegistryError: If the store does not answer.
    """
    name = _tag(digest)
    value = connect().get_model_version(version.name, str(version.version)).tags.get(name)
    if value is None:
        return None
    try:
        entry = _ENTRY.validate_json(value)
    except ValueError as error:
        raise IntegrityError(
            f"The tag {name} of {version.uri} must be what lineage wrote, but was altered:"
            f" {read_problem(error)}; delete it in MLflow to have the soft targets computed again."
        ) from error
    return entry if is_active(entry.run_id) else None


def named_run(value: str) -> str | None:
    """Return the id of the run that a tag of soft targets names; None if the tag was altered."""
    try:
        return _ENTRY.validate_json(value).run_id
    except ValueError:
        return None


def is_active(run_id: str) -> bool:
    """Tell whether the store holds a run that was not deleted."""
    with suppress(NotFoundError), translated_errors():
        return bool(connect().get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    return False


@translated_errors()
def start_soft_targets_run(version: Version, stored: Mapping[str, Any], data: NamedData) -> GenerationRun:
    """Open the run whose artifacts the soft targets of ``version`` will be, nested under the version's own.

    Args:
        version: Version of the teacher.
        stored: Parameters of the run, such as the number of views.
        data: Data set whose images the teacher looks at.
    """
    return start_run(
        ensure_experiment(version.name),
        f"soft targets of {version.id}",
        (version,),
        {"kind": SOFT_TARGETS_KIND},
        "",
        stored,
        data,
    )


@translated_errors()
def keep_soft_targets(
    version: Version, digest: str, entry: SoftTargetsEntry, folder: Path, metrics: dict[str, float]
) -> None:
    """Log the files in ``folder`` to the entry's run, name the run in a tag of ``version``, and close it."""
    client = MlflowClient()
    client.log_artifacts(entry.run_id, str(folder), FOLDER)
    client.log_batch(entry.run_id, metrics_now(metrics))
    client.set_model_version_tag(version.name, str(version.version), _tag(digest), json.dumps(asdict(entry)))
    client.set_terminated(entry.run_id, "FINISHED")


@translated_errors()
def local_soft_targets(entry: SoftTargetsEntry) -> Path | None:
    """Return the folder of the files in the store itself; None if its artifacts are not on this machine.

    Raises:
        NotFoundError: If the store no longer holds them.
        RegistryError: If it does not answer.
    """
    artifacts = str(MlflowClient().get_run(entry.run_id).info.artifact_uri)
    if urlsplit(artifacts).scheme not in ("", "file"):
        return None
    try:
        with translated_errors():  # MLflow copies nothing where it is given no destination
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{artifacts}/{FOLDER}"))
    except NotFoundError as error:
        raise NotFoundError(
            f"Run {entry.run_id} must hold the teacher's soft targets in {artifacts}/{FOLDER}, but does not;"
            " delete the run in MLflow to have them computed again."
        ) from error


@translated_errors()
def download_soft_targets(entry: SoftTargetsEntry, folder: Path) -> Path:
    """Download the files to ``folder``, in place of what it holds, and return it.

    Raises:
        NotFoundError: If the store no longer holds them.
        RegistryError: If it does not answer.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    try:
        mlflow.artifacts.download_artifacts(run_id=entry.run_id, artifact_path=FOLDER, dst_path=str(place))
        shutil.rmtree(folder, ignore_errors=True)
        (place / FOLDER).rename(folder)
    finally:
        shutil.rmtree(place)
    return folder


def _tag(digest: str) -> str:
    return SOFT_TARGETS_TAG + digest[:_DIGITS_IN_TAG]
