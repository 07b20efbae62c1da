"""The set of files of a logged model, as one digest; imports no torch.

The digest covers every file that ``lineage`` writes. Of ``MLmodel`` it covers what is run and served, the
flavors and the signature: MLflow adds ids, sizes and times there. ``registered_model_meta``, which MLflow
adds when a version is downloaded by its name, is not counted.
"""

import logging
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import TypeAdapter, ValidationError

from lineage.errors import AlteredFilesError, IntegrityError, NotFoundError, RegistryError
from lineage.formats import file_digest, first_line, json_digest, read_problem
from lineage.registry.store.connection import safe_uri, short_patience, translated_errors
from lineage.registry.store.database import database_file

FILES_TAG = "lineage.files_sha256"
LOADER_MODULE = "lineage.registry.flavor"
MLMODEL = "MLmodel"
WEIGHTS_FILE = "weights.safetensors"

_REGISTERED = "registered_model_meta"
_logger = logging.getLogger(__name__)
_TABLE = TypeAdapter(dict[str, Any])
_FLAVORS = TypeAdapter(dict[str, dict[str, Any]])


def files_digest(folder: Path) -> str:
    """Return the SHA-256, in hex, of the paths and contents of a logged model's files.

    Raises:
        NotFoundError: If there is no ``MLmodel``.
        IntegrityError: If it is damaged.
    """
    files = {
        file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if not file.is_dir()
    }
    digests = {path: file_digest(file) for path, file in files.items() if path not in (MLMODEL, _REGISTERED)}
    mlmodel = read_mlmodel(folder)
    served = {key: mlmodel.get(key) for key in ("flavors", "signature")}
    try:
        return json_digest([served, sorted(digests.items())])
    except (TypeError, ValueError, RecursionError) as error:  # dates, keys of several types
        raise _damaged(first_line(error)) from error


def require_weights(version_id: str, model_id: str) -> None:
    """Check that the store has the weights of a version, without reading them.

    Raises:
        NotFoundError: If it does not.
        RegistryError: If it does not answer.
    """
    there: set[str] = set()
    with suppress(NotFoundError), translated_errors():
        there = {file.path for file in MlflowClient().list_logged_model_artifacts(model_id)}
    if WEIGHTS_FILE not in there:
        raise NotFoundError(
            f"The weights of models:/{version_id} must lie in {safe_uri()}, but do not; restore the artifacts"
            f" of {model_id}, or remove the version with 'lineage rm' to train it again."
        )


def require_files(folder: Path, subject: str, registered: str) -> None:
    """Compare a model's files with those that were registered.

    Args:
        folder: Folder with the files.
        subject: Name of the model in the message.
        registered: Digest of the files that were registered.

    Raises:
        AlteredFilesError: If they differ.
    """
    try:
        digest = files_digest(folder)
        found = f"{digest[:12]}…"
    except (IntegrityError, NotFoundError) as error:
        digest = ""
        found = f"a damaged file: {first_line(error)}"
    if digest != registered:
        raise AlteredFilesError(
            f"The files of {subject} must have the SHA-256 {registered[:12]}… they were registered with, but"
            f" have {found}: one of the weights, lineage.json, MLmodel, the recipe, the predictions or the"
            " environment is another; do not use them, restore its artifacts."
        )


def require_registered_files(folder: Path) -> None:
    """Compare the files of a folder with the digest that the store in use holds for its logged model.

    MLflow's own loaders know a folder alone. Where the store holds no digest for it, as where the model was
    carried elsewhere, nothing is compared; where the store does not answer, a warning is logged.

    Raises:
        AlteredFilesError: If they differ.
    """
    database = database_file(mlflow.get_tracking_uri())
    if not (folder / MLMODEL).is_file() or (database is not None and not database.is_file()):
        return  # looking for a store would create it
    try:
        registered = _registered_digests(folder)
    except RegistryError as error:
        _logger.warning("The files in %s were not compared with the registry: %s", folder, error)
        return
    for subject, digest in registered.items():
        require_files(folder, subject, digest)


def _registered_digests(folder: Path) -> dict[str, str]:
    """Return the digests that the store holds for a folder's model, by the name under which it holds them.

    These are the logged model that ``MLmodel`` names, which no digest covers, and the version in
    ``registered_model_meta``, which MLflow writes when it downloads one by name.
    """
    client = MlflowClient()
    tags: dict[str, dict[str, str]] = {}
    model_id = str(read_mlmodel(folder).get("model_id"))
    with suppress(NotFoundError), short_patience(), translated_errors():
        tags[f"models:/{model_id}"] = client.get_logged_model(model_id).tags
    meta = folder / _REGISTERED
    if meta.is_file():
        version = _read_yaml(meta)
        name, number = str(version.get("model_name")), str(version.get("model_version"))
        with suppress(NotFoundError), short_patience(), translated_errors():
            tags[f"models:/{name}/{number}"] = client.get_model_version(name, number).tags
    return {subject: found[FILES_TAG] for subject, found in tags.items() if FILES_TAG in found}


def fetch_files(model_id: str, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of those of some files that a logged model has, without the others, by name.

    Raises:
        RegistryError: If the store does not answer.
    """
    found: dict[str, bytes] = {}
    with suppress(NotFoundError), translated_errors(), tempfile.TemporaryDirectory() as place:
        repository = get_artifact_repository(f"models:/{model_id}")
        for name in {file.path for file in repository.list_artifacts("")}.intersection(names):
            found[name] = Path(repository.download_artifacts(name, place)).read_bytes()
    return found


def require_own_loader(folder: Path) -> None:
    """Refuse a model whose ``MLmodel``, if there is one, names another loader, which MLflow would run.

    Raises:
        AlteredFilesError: If it does.
        IntegrityError: If it is damaged.
    """
    if not (folder / MLMODEL).is_file():
        return  # a member within an ensemble has none
    loader = read_mlmodel(folder)["flavors"].get("python_function", {}).get("loader_module")
    if loader != LOADER_MODULE:
        raise AlteredFilesError(
            f"The loader_module in {MLMODEL} must be {LOADER_MODULE}, but is {loader!r}, whose code MLflow"
            " would run; do not serve the model, restore its artifacts."
        )


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """Return what ``MLmodel`` holds, with its flavors as tables.

    Raises:
        NotFoundError: If there is none.
        IntegrityError: If it is damaged.
    """
    path = folder / MLMODEL
    if not path.is_file():
        raise NotFoundError(
            f"A logged model must hold {MLMODEL}, but this one does not; restore its artifacts."
        )
    mlmodel = _read_yaml(path)
    try:
        return mlmodel | {"flavors": _FLAVORS.validate_python(mlmodel.get("flavors"))}
    except ValidationError as error:
        raise _damaged(read_problem(error)) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return _TABLE.validate_python(yaml.load(path.read_bytes(), _PlainLoader))
    except ValidationError as error:
        raise _damaged(read_problem(error), path.name) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _damaged(" ".join(str(error).split()), path.name) from error


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Loader of YAML without aliases, which can make a small file endless."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def _damaged(problem: str, file: str = MLMODEL) -> IntegrityError:
    return IntegrityError(
        f"{file} must be what lineage and MLflow wrote, but is not ({problem}); restore it."
    )
