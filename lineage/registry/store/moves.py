"""Stores that were moved, copied or mounted elsewhere: an sqlite file whose artifacts lie beside it again.

MLflow writes absolute locations of artifacts into the database. ``lineage`` puts them beside the database, so
that a location elsewhere tells that the store was moved from there. Such a store can be read: its artifacts
are looked for beside the database first. It takes no new artifacts, which would go to the former place, where
the original may be, until ``make_whole`` has written its present place into it.
"""

import logging
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from lineage.errors import IntegrityError
from lineage.processes import is_main_process
from lineage.registry.store.database import database_file

ARTIFACTS_FOLDER = "mlruns"
BESIDE_TAG = "lineage.artifacts"  # of an experiment that was created with its artifacts beside the database
BESIDE = "beside the database"

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
_EXPERIMENTS = (
    "SELECT e.name, e.artifact_location, t.value FROM experiments e LEFT JOIN experiment_tags t"
    f" ON t.experiment_id = e.experiment_id AND t.key = '{BESIDE_TAG}'"
    " ORDER BY NOT EXISTS (SELECT 1 FROM registered_models m WHERE m.name = e.name), e.experiment_id"
)

_logger = logging.getLogger(__name__)
_noticed: set[Path] = set()


@dataclass(frozen=True)
class Move:
    """A change of a store's folder that its database does not know of.

    Attributes:
        former: Folder that the database names.
        present: Folder that the database is in.
        family: Name of a family whose artifacts moved.
    """

    former: Path
    present: Path
    family: str

    @property
    def sentence(self) -> str:
        """The move and what completes it."""
        return (
            f"moved from {self.former} to {self.present}; 'lineage doctor {self.family} --fix' makes it whole"
        )

    def present_path(self, location: str) -> Path | None:
        """Return where artifacts of a former location belong now; None if they did not move."""
        path = _local_path(location)
        former = self.former / ARTIFACTS_FOLDER
        if path is None or not path.is_relative_to(former):
            return None
        return self.present / ARTIFACTS_FOLDER / path.relative_to(former)


def find_moves(database: Path) -> tuple[Move, ...]:
    """Return the folders that the experiments in ``database`` are said to be beside, but are not."""
    moves: dict[Path, Move] = {}
    for name, location, tag in _read_experiments(database):
        path = _local_path(location or "")
        if path is None or path.parts[-2:] != (ARTIFACTS_FOLDER, name):
            continue
        former, present = path.parent.parent, database.parent
        if former.is_dir() and former.samefile(present):
            continue
        if tag == BESIDE or (present / ARTIFACTS_FOLDER / name).is_dir() or not former.is_dir():
            moves.setdefault(former, Move(former, present, name))
    return tuple(moves.values())


def _read_experiments(database: Path) -> list[tuple[str, str | None, str | None]]:
    try:
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            return list(connection.execute(_EXPERIMENTS))
    except sqlite3.DatabaseError:  # not MLflow's, or of another release: MLflow says so
        return []


def notice_moves(database: Path) -> None:
    """Report once per process that a store was moved, and have MLflow read its artifacts in their place."""
    if database in _noticed:
        return
    _noticed.add(database)
    moves = find_moves(database)
    if moves:
        repositories: dict[str, Any] = get_registered_artifact_repositories()
        repositories |= {"": _repository, "file": _repository}
    if is_main_process():
        for move in moves:
            _logger.warning("The store can only be read: it %s.", move.sentence)


def require_in_place(database: Path) -> None:
    """Refuse to write artifacts to a store that was moved.

    Raises:
        IntegrityError: If it was.
    """
    for move in find_moves(database):
        raise IntegrityError(
            f"A store must be where its artifacts are to be written, but this one {move.sentence}."
        )


def make_whole(database: Path) -> None:
    """Write the present place of a store into its database, and fetch artifacts that are not there yet."""
    for move in find_moves(database):
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            for (location,) in list(connection.execute("SELECT artifact_location FROM experiments")):
                _fetch(move, location or "")
            connection.create_function("present", 1, partial(_rewritten, move))
            with connection:
                for table, column in _COLUMNS:
                    connection.execute(
                        f"UPDATE {table} SET {column} = present({column}) WHERE present({column}) != {column}"
                    )


def _fetch(move: Move, location: str) -> None:
    """Copy artifacts that lie in the former folder alone, as where the database was copied without them."""
    former, present = _local_path(location), move.present_path(location)
    if former is not None and present is not None and former.is_dir() and not present.is_dir():
        shutil.copytree(former, present)


def _rewritten(move: Move, value: Any) -> Any:
    present = move.present_path(value) if isinstance(value, str) else None
    if present is None:
        return value
    return present.as_uri() if str(value).startswith("file:") else str(present)


def _local_path(location: str) -> Path | None:
    """Return the path of a ``file`` URI, or of an absolute path; None for what is not on this machine."""
    if location.startswith("file:"):
        return Path(url2pathname(urlsplit(location).path))
    return Path(location) if location.startswith("/") else None


def _repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> object:
    """Return MLflow's repository of artifacts on this machine, at their present place."""
    database = database_file(tracking_uri or mlflow.get_tracking_uri())
    for move in () if database is None else find_moves(database):
        present = move.present_path(artifact_uri)
        if database is not None and present is not None:
            return _MovedArtifacts(artifact_uri, present, database)
    return LocalArtifactRepository(artifact_uri, tracking_uri, registry_uri)


class _MovedArtifacts(LocalArtifactRepository):
    """Artifacts of a store that was moved: they can be read alone, until it is made whole.

    Args:
        former_uri: Location in the database.
        present: Path beside the database.
        database: Path of the database.
    """

    def __init__(self, former_uri: str, present: Path, database: Path) -> None:
        super().__init__(former_uri)
        self._former, self._present, self._database = self._artifact_dir, present, database

    @property
    def artifact_dir(self) -> str:
        """Present folder, or the former one if the artifacts are there alone."""
        is_elsewhere = not self._present.exists() and Path(self._former).exists()
        return str(self._former if is_elsewhere else self._present)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Log a file, unless the store must be made whole first."""
        self._whole().log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Log a folder, unless the store must be made whole first."""
        self._whole().log_artifacts(local_dir, artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete artifacts, unless the store must be made whole first."""
        self._whole().delete_artifacts(artifact_path)

    def _whole(self) -> Any:
        require_in_place(self._database)
        return LocalArtifactRepository(self._present.as_uri())
