"""Leases in a study's database: of what several workers want, one has it and the others wait.

A claim is a row with its owner and the owner's last sign of life. One that has been silent for the grace
period is dead: whoever asks next takes its claim over. All times are the database's.
"""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from lineage.errors import LineageError
from lineage.studies.database import again_if_taken, translated_errors

_TABLE = Table(
    "lineage_claims",
    MetaData(),
    Column("study", String(255), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("owner", String(32), nullable=False),
    Column("heard", DateTime, nullable=False),
)


class StudyLeases:
    """This process's leases in one study.

    Args:
        storage: Of the study.
        study: Its name.
        grace: Seconds after which a silent owner is dead.
    """

    def __init__(self, storage: RDBStorage, study: str, grace: int) -> None:
        self.storage = storage
        self.study = study
        self.grace = timedelta(seconds=grace)
        self.owner = uuid.uuid4().hex
        with translated_errors(storage.url):
            again_if_taken(lambda: _TABLE.create(storage.engine, checkfirst=True))

    def claim(self, key: str) -> bool:
        """Whether ``key`` is ours from now on, or was already.

        Raises:
            RegistryError: If the database does not answer.
        """
        row = {"study": self.study, "key": key, "owner": self.owner}
        with translated_errors(self.storage.url):
            try:
                with self.storage.engine.begin() as connection:
                    held = connection.execute(
                        select(_TABLE.c.owner, _TABLE.c.heard).where(*self._is(key))
                    ).first()
                    if held is None:
                        connection.execute(insert(_TABLE).values(**row, heard=_now(connection)))
                        return True
                    if held.owner == self.owner:
                        return True
                    return self._take_over(connection, key, held.owner, held.heard)
            except IntegrityError:  # somebody was faster
                return False

    def release(self, key: str) -> None:
        """Leave ``key``, if it is ours, to others.

        Raises:
            RegistryError: If the database does not answer.
        """
        with self._begin() as connection:
            connection.execute(delete(_TABLE).where(*self._is(key), _TABLE.c.owner == self.owner))

    def release_all(self) -> None:
        """Leave everything to others.

        Raises:
            RegistryError: If the database does not answer.
        """
        with self._begin() as connection:
            connection.execute(
                delete(_TABLE).where(_TABLE.c.study == self.study, _TABLE.c.owner == self.owner)
            )

    def bury_others(self) -> None:
        """Forget all leases of others, where we know that they are dead."""
        with self._begin() as connection:
            connection.execute(
                delete(_TABLE).where(_TABLE.c.study == self.study, _TABLE.c.owner != self.owner)
            )

    def beat(self) -> None:
        """Say for all our leases that we live."""
        with self._begin() as connection:
            connection.execute(
                update(_TABLE).where(_TABLE.c.owner == self.owner).values(heard=_now(connection))
            )

    def _take_over(self, connection: Connection, key: str, owner: str, heard: datetime) -> bool:
        """Whether the claim of a dead owner is ours now; of several who try, one succeeds."""
        if _now(connection) - heard <= self.grace:
            return False
        taken = connection.execute(
            update(_TABLE)
            .where(*self._is(key), _TABLE.c.owner == owner, _TABLE.c.heard == heard)
            .values(owner=self.owner, heard=_now(connection))
        )
        return taken.rowcount == 1

    def _is(self, key: str) -> tuple[ColumnElement[bool], ...]:
        return _TABLE.c.study == self.study, _TABLE.c.key == key

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with translated_errors(self.storage.url), self.storage.engine.begin() as connection:
            yield connection


class Heartbeat:
    """Signs of life, from a thread of its own, for our leases and the trial we are at.

    Args:
        leases: Ours.
        interval: Seconds between two signs.
    """

    def __init__(self, leases: StudyLeases, interval: int) -> None:
        self.leases = leases
        self.interval = interval
        self.trial_id: int | None = None
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
                self.leases.beat()
                if self.trial_id is not None:
                    self.leases.storage.record_heartbeat(self.trial_id)
            except (LineageError, SQLAlchemyError, StorageInternalError):
                continue  # the next sign may come through; if none does in time, others take over
        self.leases.storage.remove_session()


def _now(connection: Connection) -> datetime:
    """The database's time, without a zone, as it is stored."""
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now.replace(tzinfo=None)
