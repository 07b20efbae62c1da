"""The MLflow store in use: its address, its first answer, its experiments, and its errors as ours."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)
from mlflow.utils.uri import is_local_uri
from sqlalchemy.exc import SQLAlchemyError

from lineage.errors import IntegrityError, LineageError, NotFoundError, RegistryError, UnreachableError
from lineage.formats import first_line, is_disk_full
from lineage.registry.store.bars import without_bars
from lineage.registry.store.database import (
    database_file,
    keep_transactions_whole,
    plain_uri,
    prepare_database,
)
from lineage.registry.store.moves import (
    ARTIFACTS_FOLDER,
    BESIDE,
    BESIDE_TAG,
    notice_moves,
    require_in_place,
)

_SHORT_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_GATEWAY_ERRORS = (502, 503, 504)
_SCHEMA = re.compile(r"database schema \(found version (\w+)")
_PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*(?=@)|([?&]password=)[^\s&]+")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn errors of MLflow, the database and the network into our own.

    Raises:
        NotFoundError: If the store answers that it does not hold what was named.
        UnreachableError: If it does not answer now.
        IntegrityError: If its disk is full.
        RegistryError: If it refuses.
    """
    try:
        with without_bars():
            yield
    except LineageError:
        raise
    except MlflowException as error:
        _require_room(error)
        _require_known_schema(error)
        silence = _silence(error)
        if silence is not None:
            raise UnreachableError(
                f"The store {safe_uri()} must answer, but {silence}; start it again, or set"
                " MLFLOW_TRACKING_URI to one that answers."
            ) from error
        kind = NotFoundError if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST) else RegistryError
        raise kind(f"{without_passwords(first_line(error))} (store {safe_uri()})") from error
    except (SQLAlchemyError, requests.RequestException, OSError) as error:
        _require_room(error)
        raise RegistryError(
            f"The store {safe_uri()} must be reachable and writable, but is not:"
            f" {without_passwords(first_line(error))}. Set MLFLOW_TRACKING_URI to one that is."
        ) from error


def _require_room(error: Exception) -> None:
    """Raise our error if another one says that the store's disk is full."""
    if is_disk_full(error):
        raise IntegrityError(
            f"The store {safe_uri()} must have room, but its disk is full; free some and run the same command"
            " again, which loses nothing."
        ) from error


def _require_known_schema(error: MlflowException) -> None:
    """Raise our error if MLflow says that a store's tables are not its own, and they are a later MLflow's."""
    found = _SCHEMA.search(str(error))
    if found is None:
        return
    from lineage.registry.store.mlflow_internals import knows_schema

    if not knows_schema(found[1]):
        raise RegistryError(
            f"The store {safe_uri()} must be of MLflow {mlflow.__version__} or earlier, but a later one wrote"
            f" it (schema {found[1]}); upgrade MLflow: pip install --upgrade mlflow."
        ) from error


def _silence(error: MlflowException) -> str | None:
    """Return how a store failed to answer; None if it answered, or is a file."""
    if mlflow.get_tracking_uri().startswith("sqlite"):
        return None
    cause = error.__cause__ or error.__context__
    if isinstance(cause, requests.Timeout) or "timed out" in str(cause):
        return "did not in time (MLFLOW_HTTP_REQUEST_TIMEOUT)"
    if isinstance(cause, requests.ConnectionError):
        return "refuses connections" if "refused" in str(cause) else "cannot be connected to"
    if isinstance(cause, requests.RequestException) or error.get_http_status_code() in _GATEWAY_ERRORS:
        return f"gave an error: {without_passwords(first_line(error))}"
    if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
        return f"its database does not: {without_passwords(first_line(error))}"
    return None


def safe_uri() -> str:
    """Return the tracking URI without a password."""
    return without_passwords(mlflow.get_tracking_uri())


def without_passwords(text: str) -> str:
    """Return ``text`` with ``***`` in place of each password of a URL in it."""
    return _PASSWORD.sub(r"\1\2***", text)


@translated_errors()
def connect() -> MlflowClient:
    """Return a client of the store that ``MLFLOW_TRACKING_URI`` names; by default ``./mlflow.db``.

    A store over HTTP must first answer one request, with little patience, since MLflow's own default waits
    four minutes for a dead server. Later calls keep MLflow's patience, so that a server may restart while a
    generation trains.

    Raises:
        RegistryError: If the store cannot be reached or written.
    """
    keep_transactions_whole()
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        _require_answer(uri)
    _require_no_file_store(uri)
    database = database_file(uri)
    if database is not None:
        if plain_uri(uri) != uri:
            mlflow.set_tracking_uri(plain_uri(uri))
        if not (database.is_file() and database.stat().st_size and os.access(database, os.R_OK)):
            _require_writable(database)
        prepare_database(database)
        notice_moves(database)
    try:
        return MlflowClient()
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"The store {safe_uri()} needs a driver that is not installed: {error}; install the driver."
        ) from error


@contextmanager
def using_store(uri: str) -> Iterator[None]:
    """Use another store inside the block."""
    former = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(former)


def check_store() -> None:
    """Check that the store in use answers and can be written.

    Raises:
        RegistryError: If it does not, or cannot.
        IntegrityError: If it was moved.
    """
    connect()
    database = database_file(mlflow.get_tracking_uri())
    if database is not None:
        _require_writable(database)
        require_in_place(database)


def is_missing() -> bool:
    """Return whether the store in use is an sqlite file that nothing has created yet."""
    database = database_file(mlflow.get_tracking_uri())
    return database is not None and not database.is_file()


@translated_errors()
def ensure_experiment(name: str) -> str:
    """Return the id of the experiment ``name``; create or restore it if necessary.

    Beside an sqlite database its artifacts get an absolute location next to the database, so that the family
    can be read from any working directory.

    Raises:
        IntegrityError: If the store was moved, so that artifacts would go to its former place.
    """
    check_store()
    client = connect()
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        if existing.lifecycle_stage == "deleted":
            client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)
    database = database_file(mlflow.get_tracking_uri())
    location = None if database is None else (database.parent / ARTIFACTS_FOLDER / name).as_uri()
    tags = None if database is None else {BESIDE_TAG: BESIDE}
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        return ensure_experiment(name)  # another process was faster


@translated_errors()
def find_experiment(name: str) -> str:
    """Return the id of the experiment ``name``; "" if the store holds none.

    Raises:
        RegistryError: If the store does not answer.
    """
    found = connect().get_experiment_by_name(name)
    return "" if found is None else str(found.experiment_id)


@cache
def _require_answer(uri: str) -> None:
    """Send the store one request; the cache remembers that it answered, not that it failed."""
    with short_patience():
        MlflowClient(uri).search_experiments(max_results=1)


def _require_writable(database: Path) -> None:
    """Refuse an sqlite file that cannot be opened; MLflow would retry for minutes."""
    folder = database.parent
    locked = [path for path in (folder, database) if path.exists() and not os.access(path, os.W_OK)]
    if not folder.exists():
        problem = f"{folder} does not exist"
    elif not folder.is_dir():
        problem = f"{folder} is not a folder"
    elif database.is_dir():
        problem = f"{database} is a folder"
    elif locked:
        problem = f"{locked[0]} is not"
    else:
        return
    raise RegistryError(
        f"The store {safe_uri()} must be writable, but {problem}; set MLFLOW_TRACKING_URI to one that is."
    )


@translated_errors()
def require_answer() -> None:
    """Send the store in use one request, with little patience.

    Raises:
        UnreachableError: If it does not answer.
    """
    with short_patience():
        MlflowClient().search_experiments(max_results=1)


def _require_no_file_store(uri: str) -> None:
    """Refuse the folder that MLflow kept runs in before it had a database, unless MLflow was told to take it.

    MLflow chooses it by itself where a working directory holds an old ``mlruns`` and no database.
    """
    if is_local_uri(uri) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise RegistryError(
            f"The store must be a database or a server, but {safe_uri()} is a folder of MLflow's old file"
            " store; set MLFLOW_TRACKING_URI=sqlite:///mlflow.db to begin a database beside it, or take its"
            " runs along with 'mlflow migrate-filestore --source . --target sqlite:///mlflow.db'."
        )


@contextmanager
def short_patience() -> Iterator[None]:
    """Shorten MLflow's retries and timeout of HTTP requests inside the block, unless the user set them."""
    unset = _SHORT_PATIENCE.keys() - os.environ.keys()
    os.environ.update({name: _SHORT_PATIENCE[name] for name in unset})
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)  # another thread may have done so
