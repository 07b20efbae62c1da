"""``lineage unpack``: register a family that ``lineage pack`` wrote in the store in use."""

import shutil
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from lineage.errors import IntegrityError, LineageError, NotFoundError
from lineage.exchange.pack import ARCHIVE, FAMILY_FILE, MODELS, RUNS
from lineage.formats import read_problem
from lineage.registry.packing.contents import FORMAT, Contents, PackedFamily, PackedModel, PackedRun
from lineage.registry.packing.identities import Identities
from lineage.registry.packing.planning import packed_version, plan_addition
from lineage.registry.packing.record import is_record
from lineage.registry.packing.restoring import add
from lineage.registry.store.connection import check_store
from lineage.registry.store.files import files_digest

T = TypeVar("T")


@dataclass(frozen=True)
class Unpacking:
    """The outcome of ``unpack``.

    Attributes:
        name: Name of the family.
        added: ``name/version`` of each version that was added.
        held: Number of versions whose keys the store held already.
        num_runs: Number of runs added.
        with_weights: Whether the file holds weights.
        missing: Teachers and members of other families that the store lacks.
    """

    name: str
    added: tuple[str, ...]
    held: int
    num_runs: int
    with_weights: bool
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return asdict(self)


def unpack(file: Path, merge: bool = False) -> Unpacking:
    """Register the family in an archive or a folder, with new version numbers and ids.

    Keys and digests stay, and weights are checked against theirs before anything is written.

    Args:
        file: Archive or folder that ``pack`` wrote.
        merge: Whether the store may hold a family of that name; versions whose key it holds are left out.

    Raises:
        NotFoundError: If there is no such file.
        IntegrityError: If its contents are damaged or a text without weights, or the store holds the name
            already and ``merge`` is not given, or holds a key of it with other weights.
        RegistryError: If the store cannot be reached or written.
    """
    if not file.exists():
        raise NotFoundError(f"FILE must be what 'lineage pack' wrote, but '{file}' does not exist.")
    if is_record(file):
        raise IntegrityError(
            f"FILE must hold the files of a family, but '{file}' is its text without weights, which"
            " 'lineage report' reads; pack the family into a .zip archive."
        )
    check_store()
    with tempfile.TemporaryDirectory() as place:
        folder = _folder_of(file, Path(place) / "family")
        contents = _read(file, folder)
        _check_weights(contents, folder)
        addition, missing = plan_addition(contents, merge)
        copies = _RewrittenFiles(folder, Path(place) / "rewritten", addition.identities)
        add(addition, lambda run: copies.make(RUNS, run), lambda model: copies.make(MODELS, model))
    family, versions = contents.family, addition.identities.versions
    return Unpacking(
        family.name,
        tuple(versions[f"{family.name}/{version.number}"] for version in addition.versions),
        len(family.versions) - len(addition.versions),
        len(addition.runs),
        family.with_weights,
        missing,
    )


def _folder_of(file: Path, place: Path) -> Path:
    """Return the folder of the packed files: ``file`` itself, or a new one with the archive's contents."""
    if file.is_dir():
        return file
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(place)  # leaves parents and roots out of the members' names
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise IntegrityError(
            f"FILE must be a folder or a {ARCHIVE} archive that 'lineage pack' wrote, but '{file}' cannot"
            f" be read ({error}); pack it again."
        ) from error
    return place


def _read(file: Path, folder: Path) -> Contents:
    family = _read_json(file, folder / FAMILY_FILE, PackedFamily)
    if family.format > FORMAT:
        raise IntegrityError(
            f"The format of '{file}' must be at most {FORMAT}, but is {family.format}; update lineage."
        )
    runs = [_read_json(file, path, PackedRun) for path in sorted((folder / RUNS).glob("*.json"))]
    models = [_read_json(file, path, PackedModel) for path in sorted((folder / MODELS).glob("*.json"))]
    for version in family.versions:
        packed_version(family.name, version)  # checks its tags
        if version.model_id not in {model.model_id for model in models}:
            raise IntegrityError(
                f"'{file}' must hold the model {version.model_id}, but does not; pack it again."
            )
    runs.sort(key=lambda run: run.start)
    return Contents(family, tuple(runs), tuple(models))


def _read_json(file: Path, path: Path, kind: type[T]) -> T:
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"'{file}' must be what 'lineage pack' wrote, but {path.name} cannot be read"
            f" ({read_problem(error)}); pack it again."
        ) from error


def _check_weights(contents: Contents, folder: Path) -> None:
    """Refuse weights and other files that do not have the digests that they were registered with."""
    if not contents.family.with_weights:
        return
    from lineage.registry.store.artifacts import weights_digest

    digests: dict[str, str] = {}
    for version in contents.family.versions:
        packed = packed_version(contents.family.name, version)
        registered = packed.weights_sha256
        try:
            if version.model_id not in digests:
                digests[version.model_id] = weights_digest(folder / MODELS / version.model_id)
            found = digests[version.model_id]
        except LineageError as error:
            found = f"none: {error}"
        if found != registered:
            raise IntegrityError(
                f"The weights of version {version.number} must have the SHA-256 {registered[:12]}… that they"
                f" were registered with, but have {found[:120]}; pack the family again."
            )
        if packed.files_sha256 and files_digest(folder / MODELS / version.model_id) != packed.files_sha256:
            raise IntegrityError(
                f"The files of version {version.number} must have the SHA-256 {packed.files_sha256[:12]}…"
                " that they were registered with, but have another; pack the family again."
            )


class _RewrittenFiles:
    """Copies of packed files whose texts name the new ids.

    Args:
        folder: Folder of the packed files.
        place: Folder for the copies.
        identities: New ids.
    """

    def __init__(self, folder: Path, place: Path, identities: Identities) -> None:
        self.folder, self.place, self.identities = folder, place, identities

    def make(self, room: str, former_id: str) -> Path | None:
        """Return a folder with the files of a run or a logged model; None if there are none."""
        source = self.folder / room / former_id
        if not source.is_dir():
            return None
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(source, self.place)
        for path in self.place.rglob("*"):
            if path.is_file() and path.suffix not in (".safetensors", ".pt2", ".npy"):
                self._rewrite(path)
        return self.place

    def _rewrite(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return
        rewritten = self.identities.rewrite(text)
        if rewritten != text:
            path.write_text(rewritten, encoding="utf-8")
