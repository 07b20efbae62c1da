"""The sqlite file of a store: its path, and its creation in one step, also if a process is killed."""

import os
import sqlite3
import time
from contextlib import closing
from functools import cache
from pathlib import Path

from filelock import FileLock
from sqlalchemy import URL, Pool, create_engine, event
from sqlalchemy.engine import make_url

from lineage.processes import hold_interrupts, release_interrupts

_SQLITE = "sqlite:///"
_MARK = "experiments"  # a table of MLflow's from its first release on
_BOOKKEEPING = ("alembic_version", "workspaces")  # tables that creation itself fills
_SECONDS_WITHOUT_PROGRESS = 10  # after which nobody is creating the tables any more

_ready: set[Path] = set()


def database_file(uri: str) -> Path | None:
    """Return the absolute path of the sqlite file that a tracking URI names; None for another store."""
    if not uri.startswith(_SQLITE):
        return None
    database = make_url(uri).database
    in_a_file = database and database != ":memory:" and not database.startswith("file:")
    return Path(database).resolve() if database and in_a_file else None


def plain_uri(uri: str) -> str:
    """Return a tracking URI of the same sqlite file without percent-encoding, if there is one.

    MLflow encodes the path of its default store. SQLAlchemy decodes it, but MLflow first makes the folder of
    the encoded path, which leaves an empty one or fails for want of permission. A path with a question mark,
    or with a percent sign before two digits, must stay encoded.
    """
    encoded, mark, query = uri.partition("?")
    plain = _SQLITE + (make_url(encoded).database or "")
    return uri if _SQLITE + (make_url(plain).database or "") != plain else plain + mark + query


@cache
def keep_transactions_whole() -> None:
    """Put interrupts of this process off while its main thread uses a connection of any SQLAlchemy engine."""
    event.listen(Pool, "checkout", lambda _, record, __: hold_interrupts(record))
    event.listen(Pool, "checkin", lambda _, record: release_interrupts(record))


def prepare_database(database: Path) -> None:
    """Create the tables of an sqlite store at its first use.

    MLflow creates them in place: two processes fail each other, and a kill leaves a file that nobody can open
    again. So they are created in a file of another name, which is renamed when it is complete. An empty store
    that MLflow by itself left unfinished is replaced; one that holds anything is never touched.

    Args:
        database: Path of the file, whose folder exists and can be written.
    """
    if database in _ready and database.is_file():
        return
    if _is_unfinished(database):
        lock = database.with_name(f".{database.name}.lock")
        with FileLock(lock):
            while _is_unfinished(database) and not _is_idle(database):
                time.sleep(0.2)  # another program may be creating them in place
            if _is_unfinished(database):
                _create(database)
            lock.unlink(missing_ok=True)  # whoever waits for it finds the tables complete
    _ready.add(database)


def _is_unfinished(database: Path) -> bool:
    """Tell whether the file is missing, or holds MLflow's tables in part, and nothing in them."""
    if not database.exists() or not database.stat().st_size:
        return True
    try:
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            tables = {
                name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            }
            if tables and _MARK not in tables:
                return False  # another program's
            if any(_has_rows(connection, table) for table in tables.difference(_BOOKKEEPING)):
                return False
            query = "SELECT version_num FROM alembic_version"
            versions = list(connection.execute(query)) if "alembic_version" in tables else []
    except sqlite3.DatabaseError:
        return False  # no database, or busy: MLflow says so
    from lineage.registry.store.mlflow_internals import latest_schema  # a second, which only a first use pays

    return versions != [(latest_schema(),)]


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    name = table.replace('"', '""')
    return connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() is not None


def _is_idle(database: Path) -> bool:
    """Tell whether nobody has written to the file for some seconds; a file without contents is nobody's."""
    times = [path.stat().st_mtime for path in _files(database) if path.exists() and path.stat().st_size]
    return time.time() - max(times, default=0.0) > _SECONDS_WITHOUT_PROGRESS


def _create(database: Path) -> None:
    """Create a complete database in place of ``database``."""
    from lineage.registry.store.mlflow_internals import create_tables

    place = database.with_name(f".{database.name}.new")
    _remove(place)
    engine = create_engine(URL.create("sqlite", database=str(place)))
    event.listen(engine, "connect", _write_without_waiting)
    try:
        create_tables(engine)
        engine.dispose()
        with place.open("rb+") as file:
            os.fsync(file.fileno())
        _remove(database)  # its journal as well, which sqlite would play back into the new file
        place.rename(database)
    finally:
        engine.dispose()
        _remove(place)


def _write_without_waiting(connection: sqlite3.Connection, _record: object) -> None:
    """Let a connection not wait for the disk after each of many migrations: nobody uses the file yet."""
    connection.execute("PRAGMA synchronous = OFF")


def _remove(database: Path) -> None:
    for path in _files(database):
        path.unlink(missing_ok=True)


def _files(database: Path) -> list[Path]:
    """Return the paths of a database and of what sqlite puts beside it."""
    return [database.with_name(database.name + suffix) for suffix in ("", "-journal", "-wal", "-shm")]
