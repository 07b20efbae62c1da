"""The database of studies: its URL, its tables, its lock, and its errors as those of ``lineage``."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from lineage.errors import IntegrityError, LineageError, NotFoundError, RegistryError, UsageError
from lineage.formats import first_line
from lineage.registry.store.connection import without_passwords
from lineage.registry.store.database import keep_transactions_whole

T = TypeVar("T")

DEFAULT_STORAGE = "sqlite:///studies.db"
VARIABLE = "LINEAGE_STUDIES"

_VERSION_TABLE = "alembic_version"
_OPTUNA_TABLES = {"studies", "trials", "version_info"}


@contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Raise errors of the database at ``url`` as one of ``lineage``.

    Raises:
        RegistryError: If the database does not answer, or refuses.
    """
    try:
        yield
    except LineageError:
        raise
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = first_line(without_passwords(str(cause or error)))
        raise RegistryError(
            f"The database of studies, {safe_url(url)}, must be reachable and writable, but is not: {reason}."
            f" Give another one with --storage or {VARIABLE}."
        ) from error


def safe_url(url: str) -> str:
    """Return a database's URL without its password."""
    return without_passwords(url)


def check_url(url: str, workers: int) -> None:
    """Check a database's URL before anything is opened.

    Args:
        url: URL of the database.
        workers: Number of processes that are to write the database.

    Raises:
        UsageError: If the URL is invalid, or several workers are to write a database for one process.
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
    """Check that an sqlite file exists, since opening it for reading would create it.

    Raises:
        NotFoundError: If the file does not exist.
    """
    database = make_url(url).database
    if is_sqlite(url) and not (database and Path(database).is_file()):
        raise NotFoundError(
            f"There is no database of studies {safe_url(url)}; name another one with --storage or {VARIABLE}."
        )


def is_sqlite(url: str) -> bool:
    """Return whether the database is sqlite, which one process at a time works on."""
    return make_url(url).get_backend_name() == "sqlite"


def open_storage(url: str) -> RDBStorage:
    """Open Optuna's tables in the database, and create those that are missing.

    Raises:
        IntegrityError: If the database holds another program's tables.
        RegistryError: If the database does not answer, or refuses.
    """
    keep_transactions_whole()
    options = {"pool_pre_ping": True}  # a database may be restarted while a generation trains
    with translated_errors(url):
        _refuse_tables_of_others(url)
        return retry_once(lambda: RDBStorage(url, options))


def _refuse_tables_of_others(url: str) -> None:
    """Keep Optuna out of MLflow's database: both write their version to the same table.

    Raises:
        IntegrityError: If the database holds that table without Optuna's.
    """
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


def retry_once(create: Callable[[], T]) -> T:
    """Call ``create``, and call it again if it fails: another process may be creating the same tables."""
    try:
        return create()
    except SQLAlchemyError:
        time.sleep(1)
        return create()


@contextmanager
def only_process(url: str, study: str) -> Iterator[None]:
    """Keep other processes away from a study in an sqlite file while a ``with`` block lasts.

    The lock is a file beside the database. It is free again when its process is killed: forked processes,
    such as those that load images, do not inherit it.

    Args:
        url: URL of the database; other databases than sqlite files need no lock.
        study: Name of the study.

    Raises:
        IntegrityError: If another process works on the study.
        RegistryError: If the file cannot be written.
    """
    database = make_url(url).database
    if not is_sqlite(url) or not database or database == ":memory:":
        yield
        return
    file = Path(database)
    with translated_errors(url):
        try:
            lock = FileLock(file.with_name(f".{file.name}-{study}.lock")).acquire(blocking=False)
        except Timeout:
            raise IntegrityError(
                f"Study '{study}' in {safe_url(url)} takes one process, and another is at work on it; wait"
                " for it, or use a PostgreSQL database, --storage postgresql+psycopg2://USER@HOST/DATABASE."
            ) from None
    with lock:
        yield
