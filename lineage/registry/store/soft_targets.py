"""Stored soft targets in MLflow: artifacts of a run that a tag of the teacher's version names.

Loading a model downloads none of them; a student of the version finds them. Imports no torch.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, RunStatus

from lineage.data.images import DataSpec
from lineage.errors import IntegrityError, NotFoundError
from lineage.registry.family.family import TAG, Version
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.runs import GenerationRun, start_run

SOFT_TARGETS_TAG = TAG + "signals."
SOFT_TARGETS_KIND = "signals"
FOLDER = "signals"

_LONGEST_DIGEST = 16  # in the tag's name


@dataclass(frozen=True)
class SoftTargetsEntry:
    """What a tag of the teacher's version says of its stored soft targets.

    Attributes:
        run_id: Of the run whose artifacts they are.
        views: How many are stored, from 1 on.
        temperature: The only one that they serve; None where they serve any.
    """

    run_id: str
    views: int
    temperature: float | None = None


@translated_errors()
def find_soft_targets(version: Version, digest: str) -> SoftTargetsEntry | None:
    """The soft targets of ``version`` that are stored under ``digest``; None where there are none any more.

    Raises:
        IntegrityError: If the tag was altered.
        RegistryError: If the store does not answer.
    """
    client = connect()
    name = SOFT_TARGETS_TAG + digest[:_LONGEST_DIGEST]
    value = client.get_model_version(version.name, str(version.version)).tags.get(name)
    if value is None:
        return None
    try:
        entry = SoftTargetsEntry(**json.loads(value))
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            f"The tag {name} of {version.uri} must be what lineage wrote, but was altered: {error}; delete it"
            " in MLflow to have the soft targets computed again."
        ) from error
    return entry if is_active(entry.run_id) else None


def named_run(value: str) -> str | None:
    """The run that a tag of soft targets names; None where the tag was altered."""
    try:
        return SoftTargetsEntry(**json.loads(value)).run_id
    except (ValueError, TypeError):
        return None


def is_active(run_id: str) -> bool:
    """Whether a run is there and was not deleted."""
    with suppress(NotFoundError), translated_errors():
        return bool(connect().get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    return False


@translated_errors()
def start_soft_targets_run(version: Version, stored: Mapping[str, Any], data: DataSpec) -> GenerationRun:
    """Open the run whose artifacts the soft targets of ``version`` will be, beneath the version's own.

    Args:
        version: The teacher's.
        stored: What of it, as the run's parameters.
        data: What it looks at.
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
    """Log the files in ``folder`` to the entry's run, close it, and name it in a tag of ``version``."""
    client = MlflowClient()
    client.log_artifacts(entry.run_id, str(folder), FOLDER)
    now = int(time.time() * 1000)
    client.log_batch(entry.run_id, [Metric(name, value, now, 0) for name, value in metrics.items()])
    client.set_model_version_tag(
        version.name,
        str(version.version),
        SOFT_TARGETS_TAG + digest[:_LONGEST_DIGEST],
        json.dumps(asdict(entry)),
    )
    client.set_terminated(entry.run_id, RunStatus.to_string(RunStatus.FINISHED))


@translated_errors()
def fetch_soft_targets(entry: SoftTargetsEntry, folder: Path) -> Path:
    """Where the files lie on this machine: among the store's own, or downloaded to ``folder`` once.

    Raises:
        NotFoundError: If the store holds them no more.
        RegistryError: If it does not answer.
    """
    artifacts = urlsplit(MlflowClient().get_run(entry.run_id).info.artifact_uri)
    if artifacts.scheme in ("", "file"):
        found = Path(unquote(artifacts.path)) / FOLDER
        if not found.is_dir():
            raise NotFoundError(
                f"Run {entry.run_id} must hold the teacher's soft targets in {found}, but does not; delete"
                " the run in MLflow to have them computed again."
            )
        return found
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
        try:
            mlflow.artifacts.download_artifacts(
                run_id=entry.run_id, artifact_path=FOLDER, dst_path=str(place)
            )
            with suppress(OSError):  # another process was faster
                (place / FOLDER).rename(folder)
        finally:
            shutil.rmtree(place)
    return folder
