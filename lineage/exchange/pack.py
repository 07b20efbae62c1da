"""``lineage pack``: one family as a file or a folder, to carry it to another store.

The layout, in a ZIP archive or a folder::

    family.json             registered model and versions
    runs/<id>.json          a run; its artifacts in runs/<id>/
    models/<id>.json        a logged model; its files in models/<id>/

A file that ends in ``.json`` is a ``FamilyRecord`` in place of these: what tables and figures are made of.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lineage.errors import IntegrityError, UsageError
from lineage.registry.packing.contents import Contents
from lineage.registry.packing.reading import fetch_model_files, fetch_run_files, read_contents
from lineage.registry.packing.record import record_text
from lineage.registry.packing.recording import record_family
from lineage.registry.store.predictions_file import PREDICTIONS_FILE

FAMILY_FILE = "family.json"
RUNS, MODELS = "runs", "models"
ARCHIVE = ".zip"
TEXT = ".json"

_LARGEST_TEXT = 2**20  # bytes of a file that is kept without the weights
_BEFORE_1980 = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the same time for every member, so that equal families give equal bytes


@dataclass(frozen=True)
class Packing:
    """The outcome of ``pack``.

    Attributes:
        name: Name of the family.
        file: Archive or folder.
        num_versions: Number of its versions.
        num_runs: Number of its runs.
        with_weights: Whether it holds the weights.
        num_without_predictions: Number of versions of a text that it holds no predictions of.
    """

    name: str
    file: Path
    num_versions: int
    num_runs: int
    with_weights: bool
    num_without_predictions: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return asdict(self) | {"file": str(self.file)}


def pack(name: str, file: Path, with_weights: bool = True) -> Packing:
    """Write a family to an archive or a folder, or to a text without weights.

    Args:
        name: Name of the registered model.
        file: Archive to write, a name that ends in ``.zip``; or a folder, a name without an ending; or,
            without weights, a text, a name that ends in ``.json``.
        with_weights: Whether to pack weights, stored soft targets and other large files.

    Raises:
        UsageError: If ``file`` has another ending, exists already or cannot be written.
        NotFoundError: If the store holds no such model, or not the files of a version.
        IntegrityError: If the family has no versions.
    """
    if file.suffix not in (ARCHIVE, "", TEXT):
        raise UsageError(
            f"FILE must end in {ARCHIVE} or, without weights, in {TEXT}, or name a folder without an ending,"
            f" but is '{file}'."
        )
    if file.suffix == TEXT and with_weights:
        raise UsageError(f"FILE must end in {ARCHIVE}, or be packed --without-weights, but is '{file}'.")
    if file.exists():
        raise UsageError(f"FILE must not exist yet, but '{file}' does; delete it, or name another.")
    if file.suffix == TEXT:
        return _write_record(name, file)
    contents = read_contents(name, with_weights)
    _require_versions(name, contents.family.versions)
    with _writing(file), tempfile.TemporaryDirectory(prefix=".packing-", dir=file.parent) as place:
        folder = Path(place) / "family"
        _write(contents, folder)
        if file.suffix == ARCHIVE:
            _archive(folder, Path(place) / "archive").rename(file)
        else:
            folder.rename(file)
    return Packing(name, file, len(contents.family.versions), len(contents.runs), with_weights)


def _write_record(name: str, file: Path) -> Packing:
    record = record_family(name)
    _require_versions(name, record.versions)
    with _writing(file), tempfile.TemporaryDirectory(prefix=".packing-", dir=file.parent) as place:
        text = Path(place) / file.name
        text.write_text(record_text(record), encoding="utf-8")
        text.rename(file)
    runs = {version.run_id for version in record.versions}
    lacking = sum(version.predictions is None for version in record.versions)
    return Packing(name, file, len(record.versions), len(runs - {""}), False, lacking)


def _require_versions(name: str, versions: Sized) -> None:
    if not len(versions):
        raise IntegrityError(f"'{name}' must have a version to be packed, but has none; grow one first.")


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Create the folder of a file that is written in the block.

    Raises:
        UsageError: If it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(
            f"FILE must be writable, but '{file}' is not ({error.strerror}); name another."
        ) from error


def _write(contents: Contents, folder: Path) -> None:
    _write_json(folder / FAMILY_FILE, contents.family)
    for run in contents.runs:
        _write_json(folder / RUNS / f"{run.run_id}.json", run)
        fetch_run_files(run.run_id, folder / RUNS / run.run_id)
    for model in contents.models:
        _write_json(folder / MODELS / f"{model.model_id}.json", model)
        fetch_model_files(model.model_id, folder / MODELS / model.model_id)
        if not contents.family.with_weights:
            _drop_large_files(folder / MODELS / model.model_id)
    if not contents.family.with_weights:
        _drop_large_files(folder / RUNS)


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps(asdict(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _drop_large_files(folder: Path) -> None:
    """Delete all files but texts of limited size."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent.name != RUNS and not _is_small_text(path):
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _is_small_text(path: Path) -> bool:
    if path.name != PREDICTIONS_FILE and path.stat().st_size > _LARGEST_TEXT:
        return False
    try:
        return "\0" not in path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False


def _archive(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _BEFORE_1980)
            member.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
    return file
