"""The MLflow store in use: where it is, whether it answers, and its errors in our words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from lineage.errors import LineageError, NotFoundError, RegistryError

_SQLITE = "sqlite:///"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise what MLflow, the database and the network raise as one of our errors.

    Raises:
        NotFoundError: If the store answers that a thing does not exist.
        RegistryError: If it does not answer, or refuses.
    """
    try:
        yield
    except LineageError:
        raise
    except MlflowException as error:
        kind = NotFoundError if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST) else RegistryError
        raise kind(f"{_first_line(error)} (store {safe_uri()})") from error
    except (SQLAlchemyError, requests.RequestException, OSError) as error:
        raise RegistryError(
            f"The store {safe_uri()} must be reachable and writable, but is not: {_first_line(error)}."
            " Set MLFLOW_TRACKING_URI to one that is."
        ) from error


def safe_uri() -> str:
    """The tracking URI without a password."""
    uri = mlflow.get_tracking_uri()
    return make_url(uri).render_as_string() if "://" in uri and "@" in uri else uri


@translated_errors()
def connect() -> MlflowClient:
    """A client of the store that ``MLFLOW_TRACKING_URI`` names; by default ``mlflow.db`` in this folder.

    A store over HTTP is asked once, with few retries: MLflow's own default waits four minutes for a dead
    server. Later calls keep MLflow's patience, so that a server may restart while a generation trains.

    Raises:
        RegistryError: If the store cannot be reached or written.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        with _few_retries():
            MlflowClient().search_experiments(max_results=1)
    elif uri.startswith(_SQLITE):
        _check_writable(Path(uri.removeprefix(_SQLITE)))
    return MlflowClient()


@translated_errors()
def ensure_experiment(name: str) -> str:
    """The id of the experiment ``name``, created where it is missing.

    Beside an sqlite database its artifacts get an absolute place next to the database, so that the family can
    be read from any working directory.
    """
    client = connect()
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        if existing.lifecycle_stage == "deleted":
            client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)
    uri = mlflow.get_tracking_uri()
    location = None
    if uri.startswith(_SQLITE):
        location = (Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlruns" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _check_writable(database: Path) -> None:
    """MLflow retries an sqlite file that cannot be opened for minutes; ask the file system first."""
    place = database if database.exists() else database.parent
    if not place.exists() or not os.access(place, os.W_OK):
        found = "is not" if place.exists() else "does not exist"
        raise RegistryError(
            f"The store {safe_uri()} must be writable, but {place} {found};"
            " set MLFLOW_TRACKING_URI to one that is."
        )


@contextmanager
def _few_retries() -> Iterator[None]:
    """MLflow's number of retries, set to one for a while unless the user chose it."""
    if _RETRIES in os.environ:
        yield
        return
    os.environ[_RETRIES] = "1"
    try:
        yield
    finally:
        del os.environ[_RETRIES]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
