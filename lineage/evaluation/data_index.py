"""Folders of data sets that this user has named, by the digest of their contents.

A recipe in a registry was written by somebody else: its folder is not read and its downloads are not made.
The images of a registered version are found here instead, from whatever working directory.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from lineage.data.hub import PREFIX
from lineage.errors import UsageError
from lineage.recipe import DataSettings, Recipe
from lineage.training.checkpoints import state_home

_FILE = "data.json"
_HOME = "LINEAGE_HOME"
_SECONDS = 5


def remember_folder(digest: str, data: DataSettings) -> None:
    """Note where the data set with that digest is; nothing is noted where no folder can be written.

    Args:
        digest: Digest of its contents.
        data: Settings, as the user gave them, that it was just read with.
    """
    if data.root is None and not data.name.startswith(PREFIX):
        return
    folder = "" if data.root is None else str(Path(data.root).expanduser().resolve())
    if _read_index().get(digest) == folder:
        return
    for place in _places():
        with contextlib.suppress(OSError, Timeout):  # if all fail, the next command asks for the folder again
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(place / _FILE.replace(".json", ".lock"), timeout=_SECONDS, mode=0o600):
                _write_index(place, _read_file(place) | {digest: folder})
            return


class KnownData(Protocol):
    """What a registry tells of a data set: a ``DataSpec``, or a record of one."""

    @property
    def digest(self) -> str:
        """SHA-256 of the contents."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the network's input."""


def read_recipe(text: str, spec: KnownData) -> Recipe:
    """Return a recipe from a registry, without a size of images that its version was not grown on.

    Images in memory once ignored ``data.image_size``, whose default was recorded with them all the same.

    Args:
        text: Recipe as JSON.
        spec: Description of the data that its version was grown on.

    Raises:
        RecipeError: If it cannot be read.
    """
    recipe = Recipe.from_json(text)
    size = recipe.data.image_size
    return recipe if (size, size) == spec.input_shape[1:] else _change_data(recipe, {"image_size": None})


def stored_recipe(text: str, spec: KnownData) -> Recipe:
    """Return a recipe as ``read_recipe`` does, with the folder that this user has named for its images.

    Its own folder and its permission to download are left out, and it starts no more processes that load
    images than this machine has cores.

    Args:
        text: Recipe as JSON.
        spec: Description of the data that its version was grown on.

    Raises:
        RecipeError: If it cannot be read.
    """
    return with_own_folder(read_recipe(text, spec), spec.digest)


def with_own_folder(recipe: Recipe, digest: str) -> Recipe:
    """Return a recipe that somebody stored, made to read images where this user keeps those of ``digest``."""
    folder = _read_index().get(digest)
    workers = min(recipe.data.workers, os.cpu_count() or 1)
    return _change_data(recipe, {"root": folder or None, "download": False, "workers": workers})


def _change_data(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)})


def require_named(data: DataSettings, stored_name: str, digest: str) -> None:
    """Refuse to fetch images from the Hub because a registry says so.

    Args:
        data: Data settings in use.
        stored_name: Name of the data set in the registry.
        digest: Digest of the images in the registry.

    Raises:
        UsageError: If only the registry names them.
    """
    is_stored = data.name == stored_name and data.name.startswith(PREFIX)
    if is_stored and data.root is None and not data.download and digest not in _read_index():
        raise UsageError(
            f"Images of '{data.name}', which a registry names, must be asked for, but were not; add --set"
            " data.download=true to fetch them, or --set data.root=FOLDER."
        )


def _places() -> list[Path]:
    """Return the folders that may hold an index, the one to write first.

    That is ``$LINEAGE_HOME``; or else the user's folder for the state of programs, which XDG's base directory
    specification names, and where it cannot be written, the folder of unfinished generations.
    """
    if _HOME in os.environ:
        return [state_home()]
    user = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
    return [user / "lineage", state_home()]


def _read_index() -> dict[str, str]:
    """Return the folders that exist, by digest; nothing if there is no index, or it is damaged."""
    found: dict[str, str] = {}
    for place in reversed(_places()):
        found |= _read_file(place)
    return found


def _read_file(place: Path) -> dict[str, str]:
    """Return the folders that exist of the index in ``place``."""
    try:
        found = json.loads((place / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    texts = {digest: folder for digest, folder in entries if isinstance(folder, str)}
    return {digest: folder for digest, folder in texts.items() if not folder or Path(folder).is_dir()}


def _write_index(place: Path, index: dict[str, str]) -> None:
    """Replace the index in ``place``, which is readable for this user alone."""
    descriptor, name = tempfile.mkstemp(dir=place, prefix=_FILE)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(index, file, indent=2, sort_keys=True)
        Path(name).replace(place / _FILE)
    finally:
        Path(name).unlink(missing_ok=True)
