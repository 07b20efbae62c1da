"""Leases in a study's database: of several workers that want one thing, one holds it and the others wait.

A lease is a row with its owner and the time at which the owner was last heard. An owner that has been silent
for the grace period counts as dead, and the next worker that asks takes its lease over. All times are the
database's, in UTC: they neither depend on the clocks of workers nor jump with daylight saving time.
"""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from lineage.errors import LineageError
from lineage.studies.database import retry_once, translated_errors

# The name, which running studies have in their databases, is that of the first version.
_TABLE = Table(
    "lineage_claims",
    MetaData(),
    Column("study", String(255), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("owner", String(32), nullable=False),
    Column("heard", DateTime, nullable=False),
)


class _UtcNow(FunctionElement[datetime]):
    """The database's present time in UTC, whatever the time zone of server and session."""

    type = DateTime()
    inherit_cache = True


@compiles(_UtcNow, "sqlite")
def _utc_now_of_sqlite(_element: _UtcNow, _compiler: Any, **_options: Any) -> str:
    return "STRFTIME('%Y-%m-%d %H:%M:%f000', 'now')"  # the text that SQLAlchemy writes and compares with


@compiles(_UtcNow, "postgresql")
def _utc_now_of_postgresql(_element: _UtcNow, _compiler: Any, **_options: Any) -> str:
    return "TIMEZONE('UTC', CURRENT_TIMESTAMP)"


@compiles(_UtcNow, "mysql")
@compiles(_UtcNow, "mariadb")
def _utc_now_of_mysql(_element: _UtcNow, _compiler: Any, **_options: Any) -> str:
    return "UTC_TIMESTAMP()"


class StudyLeases:
    """Leases of this process in one study.

    Args:
        storage: Database of the study.
        study: Name of the study.
        grace: Seconds of silence after which an owner counts as dead.
    """

    def __init__(self, storage: RDBStorage, study: str, grace: int) -> None:
        self.storage = storage
        self.study = study
        self.grace = timedelta(seconds=grace)
        self.owner = uuid.uuid4().hex
        with translated_errors(storage.url):
            retry_once(lambda: _TABLE.create(storage.engine, checkfirst=True))

    def claim(self, key: str) -> bool:
        """Take the lease on ``key`` if it is free or its owner is dead.

        Returns:
            Whether this process holds the lease now, or held it already.

        Raises:
            RegistryError: If the database does not answer.
        """
        row = {"study": self.study, "key": key, "owner": self.owner}
        with translated_errors(self.storage.url):
            try:
                with self.storage.engine.begin() as connection:
                    lease = connection.execute(
                        select(_TABLE.c.owner, _TABLE.c.heard, _UtcNow().label("now")).where(*self._is(key))
                    ).first()
                    if lease is None:
                        connection.execute(insert(_TABLE).values(**row, heard=_UtcNow()))
                        return True
                    if lease.owner == self.owner:
                        return True
                    # The first version wrote times of the session's zone: one in the future is such a time.
                    is_alive = abs(lease.now - lease.heard) <= self.grace
                    return not is_alive and self._take_over(connection, key, lease.owner, lease.heard)
            except IntegrityError:  # another process inserted the row first
                return False

    def release(self, key: str) -> None:
        """Give up the lease on ``key`` if this process holds it.

        Raises:
            RegistryError: If the database does not answer.
        """
        with self._begin() as connection:
            connection.execute(delete(_TABLE).where(*self._is(key), _TABLE.c.owner == self.owner))

    def release_all(self) -> None:
        """Give up all leases of this process.

        Raises:
            RegistryError: If the database does not answer.
        """
        with self._begin() as connection:
            connection.execute(
                delete(_TABLE).where(_TABLE.c.study == self.study, _TABLE.c.owner == self.owner)
            )

    def delete_others(self) -> None:
        """Delete the leases of all other processes, which the caller knows to be dead.

        Raises:
            RegistryError: If the database does not answer.
        """
        with self._begin() as connection:
            connection.execute(
                delete(_TABLE).where(_TABLE.c.study == self.study, _TABLE.c.owner != self.owner)
            )

    def refresh(self) -> None:
        """Note in all leases of this process that it is alive.

        Raises:
            RegistryError: If the database does not answer.
        """
        with self._begin() as connection:
            connection.execute(update(_TABLE).where(_TABLE.c.owner == self.owner).values(heard=_UtcNow()))

    def _take_over(self, connection: Connection, key: str, owner: str, heard: datetime) -> bool:
        """Take the lease of a dead owner; of several processes that try, one succeeds."""
        taken = connection.execute(
            update(_TABLE)
            .where(*self._is(key), _TABLE.c.owner == owner, _TABLE.c.heard == heard)
            .values(owner=self.owner, heard=_UtcNow())
        )
        return taken.rowcount == 1

    def _is(self, key: str) -> tuple[ColumnElement[bool], ...]:
        return _TABLE.c.study == self.study, _TABLE.c.key == key

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with translated_errors(self.storage.url), self.storage.engine.begin() as connection:
            yield connection


class Heartbeat:
    """A thread that refreshes a process's leases as long as a ``with`` block lasts.

    Args:
        leases: Leases of this process.
        interval: Seconds between two refreshes.
    """

    def __init__(self, leases: StudyLeases, interval: float) -> None:
        self.leases = leases
        self.interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self.interval):
            try:
                self.leases.refresh()
            except LineageError:
                continue  # the next refresh may succeed; if none does in time, other workers take over
