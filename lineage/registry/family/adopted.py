"""Adopted networks: models logged by others with ``mlflow.pytorch``, and the versions made of them."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import Model

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import first_line, json_digest
from lineage.models.exported import export
from lineage.models.networks import options_without_weights
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_key
from lineage.registry.family.register import NewVersion, register
from lineage.registry.flavor import log_model
from lineage.registry.store.artifacts import LoadedModel, weights_digest
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.runs import FLAVOR_NAME, start_run

ADOPTED = "adopted"

_MAY_UNPICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


def fetch_program(uri: str, input_shape: tuple[int, int, int], trust_pickle: bool = False) -> bytes:
    """Fetch a model that was logged with ``mlflow.pytorch``; return it as a torch.export archive.

    Args:
        uri: URI of the model, in any of MLflow's forms.
        input_shape: (C, H, W) of an image.
        trust_pickle: Whether a pickled model may be read, which runs whatever code its writer put there.

    Raises:
        NotFoundError: If the store does not hold it.
        UsageError: If it was not logged with ``mlflow.pytorch``, or torch cannot export it.
        IntegrityError: If it is damaged, or pickled and not trusted.
    """
    connect()
    with tempfile.TemporaryDirectory() as place:
        folder = _download(uri, Path(place))
        flavors = _read_flavors(uri, folder)
        if FLAVOR_NAME in flavors:
            raise UsageError(
                f"{uri} must be logged by another tool, but is lineage's own already; use it as it is."
            )
        if "pytorch" not in flavors:
            raise UsageError(
                f"{uri} must be logged with mlflow.pytorch, but has {', '.join(flavors) or 'no flavor'};"
                " log it with mlflow.pytorch.log_model and an input_example."
            )
        program = folder / flavors["pytorch"].get("model_data", "data") / "model.pt2"
        if program.is_file():
            archive: bytes = program.read_bytes()
            return archive
        if not trust_pickle:
            raise IntegrityError(
                f"{uri} must be logged as 'pt2', but is pickled, and reading it could run anybody's code; log"
                " it with mlflow.pytorch.log_model(serialization_format='pt2'), or pass --trust-pickle."
            )
        return export(_unpickle(uri, folder), input_shape)


def find_adopted(name: str, key: str) -> Version | None:
    """Return the version of ``name`` with that key, which need not be adopted again."""
    return find_key(name, key)


def adoption_key(model: LoadedModel) -> str:
    """Return the digest of weights, network and data description, wherever the model came from."""
    known = {
        "weights": weights_digest(model.network),
        "network": [model.network_name, options_without_weights(model.network_name, model.network_options)],
        "data": model.spec.to_json(),
    }
    return json_digest(known)


@translated_errors()
def register_adopted(
    name: str, model: LoadedModel, metrics: Mapping[str, float], origin: Mapping[str, Any]
) -> Version:
    """Make ``model`` a version of ``name`` without a teacher.

    Args:
        name: Name of the registered model, created if it is missing.
        model: Network to adopt.
        metrics: Metrics measured on its data; may be empty.
        origin: Source of the network, as parameters of its run.
    """
    key = adoption_key(model)
    tags = {"kind": ADOPTED, "key": key, "generation": "0"}
    run = start_run(ensure_experiment(name), f"{name} adopted", (), tags, "", origin, model.spec)
    try:
        model_id = log_model(model, f"{name}-adopted", run.run_id, metrics)
        new = NewVersion(
            generation=0,
            teacher=None,
            objective=ADOPTED,
            seed=0,
            recipe_digest="",
            key=key,
            metrics=dict(metrics),
            weights_sha256=weights_digest(model.network),
            kind=ADOPTED,
        )
        version = register(name, new, model_id, run.run_id)
    except BaseException:
        run.stop("FAILED")
        raise
    run.finish(version)
    return version


@translated_errors()
def _download(uri: str, place: Path) -> Path:
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(place)))
    except mlflow.MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise UsageError(f"--model must be an MLflow model URI, but got '{uri}'.") from error
        raise
    if not (folder / "MLmodel").is_file():
        raise NotFoundError(f"{uri} must hold an MLflow model, but has no file MLmodel; name another.")
    return folder


def _read_flavors(uri: str, folder: Path) -> dict[str, dict[str, Any]]:
    try:
        flavors: dict[str, dict[str, Any]] = Model.load(str(folder)).flavors
        return {name: dict(settings) for name, settings in flavors.items()}
    except Exception as error:  # MLflow checks little of the file, so that a damaged one fails anywhere
        raise IntegrityError(
            f"The file MLmodel of {uri} must be what MLflow wrote, but cannot be read: {first_line(error)};"
            " restore it, or log the model again."
        ) from error


def _unpickle(uri: str, folder: Path) -> Any:
    import mlflow.pytorch  # takes a second, and few models need it

    try:
        with _unpickling_allowed():
            return mlflow.pytorch.load_model(str(folder), map_location="cpu")
    except Exception as error:  # unpickling raises whatever the file makes it raise
        raise UsageError(
            f"{uri} must be a model whose code is installed here, but loading it failed: {first_line(error)}."
        ) from error


@contextmanager
def _unpickling_allowed() -> Iterator[None]:
    """Give MLflow the permission to unpickle that the user has given us, inside the block."""
    before = os.environ.get(_MAY_UNPICKLE)
    os.environ[_MAY_UNPICKLE] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MAY_UNPICKLE]
        else:
            os.environ[_MAY_UNPICKLE] = before
