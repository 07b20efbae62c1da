"""The database of a study: where it is, whether it answers, and its errors in our words."""

import fcntl
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from lineage.errors import IntegrityError, LineageError, NotFoundError, RegistryError, UsageError
from lineage.formats import first_line
from lineage.registry.store.connection import without_passwords

T = TypeVar("T")

DEFAULT_STORAGE = "sqlite:///studies.db"
VARIABLE = "LINEAGE_STUDIES"

_VERSION_TABLE = "alembic_version"
_OPTUNA_TABLES = {"studies", "trials", "version_info"}


@contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Raise what the database raises as one of our errors.

    Raises:
        RegistryError: If it does not answer, or refuses.
    """
    try:
        yield
    except LineageError:
        raise
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        said = first_line(without_passwords(str(cause or error)))
        raise RegistryError(
            f"The database of studies, {safe_url(url)}, must be reachable and writable, but is not: {said}."
            f" Give another one with --storage or {VARIABLE}."
        ) from error


def safe_url(url: str) -> str:
    """A database's URL without its password."""
    return without_passwords(url)


def check_url(url: str, workers: int) -> None:
    """Check what can be known of a URL before anything is opened.

    Raises:
        UsageError: If it is none, or names a database that takes one process, for several workers.
    """
    try:
        parsed = make_url(url)
        parsed.get_dialect()
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UsageError(
            f"--storage must be the URL of a database, such as {DEFAULT_STORAGE} or"
            f" postgresql+psycopg2://USER@HOST/DATABASE, but got '{safe_url(url)}'."
        ) from None
    if backend == "sqlite" and workers > 1:
        raise UsageError(
            f"--workers {workers} needs a database that several processes can write, but {safe_url(url)}"
            " takes one; give a PostgreSQL database, as in --storage postgresql+psycopg2://USER@HOST/DATABASE."
        )


def require_database(url: str) -> None:
    """Refuse an sqlite file that is not there: whoever only reads must not create it.

    Raises:
        NotFoundError: If there is no such file.
    """
    database = make_url(url).database
    if is_sqlite(url) and not (database and Path(database).is_file()):
        raise NotFoundError(
            f"There is no database of studies {safe_url(url)}; name another one with --storage or {VARIABLE}."
        )


def is_sqlite(url: str) -> bool:
    """Whether the database is a file of sqlite, which one process works on."""
    return make_url(url).get_backend_name() == "sqlite"


def open_storage(url: str, heartbeat: int, grace: int) -> RDBStorage:
    """Optuna's tables in the database, created where they are missing.

    Args:
        url: Of the database.
        heartbeat: Seconds between signs of life of a trial's worker.
        grace: Seconds of silence after which the trial is failed.

    Raises:
        IntegrityError: If another program's tables are there.
        RegistryError: If the database does not answer, or refuses.
    """
    with translated_errors(url):
        _refuse_tables_of_others(url)
    options = {"pool_pre_ping": True}  # a database may be restarted while a generation trains
    with translated_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return again_if_taken(
            lambda: RDBStorage(url, options, heartbeat_interval=heartbeat, grace_period=grace)
        )


def _refuse_tables_of_others(url: str) -> None:
    """Keep Optuna out of MLflow's database: both note their version in one table, and the other's is lost."""
    if is_sqlite(url) and not Path(make_url(url).database or "").is_file():
        return
    engine = create_engine(url)
    try:
        tables = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if _VERSION_TABLE in tables and not tables.issuperset(_OPTUNA_TABLES):
        raise IntegrityError(
            f"The database of studies must be their own, but {safe_url(url)} is another program's, such as"
            " MLflow's, which would not open it any more; create another one, as in CREATE DATABASE studies."
        )


def again_if_taken(create: Callable[[], T]) -> T:
    """What ``create`` gives; it is tried twice, since another process may be creating the same tables."""
    try:
        return create()
    except SQLAlchemyError:
        time.sleep(1)
        return create()


@contextmanager
def only_process(url: str, study: str) -> Iterator[None]:
    """Keep other processes away from a study in an sqlite file; a process that is killed keeps nobody away.

    Raises:
        IntegrityError: If another process works on it.
    """
    database = make_url(url).database
    if not is_sqlite(url) or not database or database == ":memory:":
        yield
        return
    file = Path(database)
    with translated_errors(url):
        lock = file.with_name(f".{file.name}-{study}.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IntegrityError(
                f"Study '{study}' in {safe_url(url)} takes one process, and another is at work on it; wait,"
                " or begin it in a PostgreSQL database, --storage postgresql+psycopg2://USER@HOST/DATABASE."
            ) from None
        yield
