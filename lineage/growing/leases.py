"""Leases on keys: of all processes that use one registry, one works on a key and the others wait for it.

A lease is a tag of the family's experiment in MLflow, which its holder changes again and again. A process
that waits watches the tag by its own clock: one that has not changed for the holder's grace is free. Clocks
of two machines are never compared.

MLflow sets a tag without asking what it was, so two processes that claim one key at the same moment may both
believe to have it. The one whose tag was overwritten finds that out when training starts, or after an epoch,
and waits. So a lease saves work; that a key has one version is ensured by ``register``.

In one folder the lock of the checkpoint decides, which the operating system gives back when a process dies.
The owner's random word is kept in that folder, so a process that resumes there has the lease at once.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from lineage.errors import IntegrityError, LineageError
from lineage.registry.store.connection import ensure_experiment, short_patience
from lineage.registry.store.leases import Lease, delete_lease, read_lease, write_lease
from lineage.training.checkpoints import Checkpoint
from lineage.training.turns import on_main_process

T = TypeVar("T")

LEASE_NOTE = "lease"
"""Note beside a checkpoint with the owner's word."""

_SECONDS_BETWEEN_LOOKS = 1.0
_LONGEST_GAP = 5.0  # a longer one between two looks says that the watcher slept, or the store did not answer


class LeaseLostError(LineageError):
    """Another process took the lease over, so this one must wait for it."""


@dataclass(frozen=True)
class Work:
    """Something that one process at a time should work on.

    Attributes:
        name: Family in whose experiment the lease stands.
        key: Key of a generation or of soft targets.
        checkpoint: Local state of the work.
    """

    name: str
    key: str
    checkpoint: Checkpoint


class Leases:
    """Leases of this process; rank 0 alone uses them.

    Args:
        heartbeat: Seconds between two signs of life.
        grace: Seconds without one after which other processes may take a lease over.
    """

    def __init__(self, heartbeat: float, grace: float) -> None:
        self.heartbeat = heartbeat
        self.grace = grace
        self._held: dict[str, _Held] = {}
        self._silences: dict[str, _Silence] = {}

    def claim(self, work: Work) -> str | None:
        """Take the lease on some work, and lock its local state.

        Returns:
            None if both are ours, else a sentence that says who works on it.

        Raises:
            UsageError: If the folder of the local state cannot be made or locked.
            RegistryError: If the store does not answer.
        """
        try:
            work.checkpoint.acquire()
        except IntegrityError as error:
            return str(error)
        holder = None
        try:
            holder = self._claim(work)
        finally:
            if work.key not in self._held:
                work.checkpoint.release()
        return holder and f"{holder} works on {work.key[:12]}… of '{work.name}'; waiting for it."

    def confirm(self, key: str) -> None:
        """Show a sign of life, and check that the lease on ``key`` is still ours.

        Raises:
            LeaseLostError: If another process has taken it.
            RegistryError: If the store does not answer.
        """
        self._held[key].refresh()
        self.require(key)

    def require(self, key: str) -> None:
        """Check that the last sign of life found the lease on ``key`` to be ours.

        Raises:
            LeaseLostError: If another process has taken it.
        """
        if self._held[key].is_lost:
            raise LeaseLostError(
                f"The lease on {key[:12]}… must stay with the process that works on it, but another one has"
                " taken it over; wait for that one."
            )

    def release(self, key: str) -> None:
        """Give up the lease on ``key`` and the lock of its local state, if they are ours."""
        held = self._held.pop(key, None)
        if held is not None:
            held.release()

    def _claim(self, work: Work) -> str | None:
        """Take the lease on work whose local state is locked, or return its holder."""
        experiment_id = ensure_experiment(work.name)
        owner = work.checkpoint.read_note(LEASE_NOTE) or uuid.uuid4().hex
        found = read_lease(experiment_id, work.key)
        if found is not None and found.owner != owner and not self._is_silent(work.key, found):
            return found.holder
        ours = Lease(owner, f"process {os.getpid()} on {os.uname().nodename}", self.grace)
        write_lease(experiment_id, work.key, ours)
        now = read_lease(experiment_id, work.key)
        if now is not None and now.owner != owner:  # another process wrote at the same moment
            return now.holder
        work.checkpoint.write_note(LEASE_NOTE, owner)
        self._held[work.key] = _Held(work, experiment_id, ours, self.heartbeat)
        return None

    def _is_silent(self, key: str, lease: Lease) -> bool:
        return self._silences.setdefault(key, _Silence()).observe(lease) >= lease.grace


class _Silence:
    """Time since a lease last changed, by this process's own clock."""

    def __init__(self) -> None:
        self._lease: Lease | None = None
        self._seconds = 0.0
        self._looked = 0.0

    def observe(self, lease: Lease) -> float:
        """Return for how many seconds the lease has been seen as it is now."""
        now = time.monotonic()
        gap = min(now - self._looked, _LONGEST_GAP)
        self._seconds = self._seconds + gap if lease == self._lease else 0.0
        self._lease, self._looked = lease, now
        return self._seconds


class _Held:
    """A lease that this process holds, with the thread that refreshes it."""

    def __init__(self, work: Work, experiment_id: str, lease: Lease, heartbeat: float) -> None:
        self.is_lost = False
        self._work = work
        self._experiment_id = experiment_id
        self._lease = lease
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def refresh(self) -> None:
        """Show a sign of life, unless another process has taken the lease."""
        with self._lock:
            if self._is_ours():
                self._lease = replace(self._lease, count=self._lease.count + 1)
                write_lease(self._experiment_id, self._work.key, self._lease)

    def release(self) -> None:
        """End the thread, delete the lease if it is still ours, and unlock the local state.

        If the registry does not answer, the owner's word stays beside the checkpoint, so that the command
        that continues here takes the lease again at once.
        """
        self._ended.set()
        self._thread.join()
        try:
            with suppress(LineageError):  # others take over what they no longer hear of
                if self._is_ours():
                    delete_lease(self._experiment_id, self._work.key)
                (self._work.checkpoint.folder / LEASE_NOTE).unlink(missing_ok=True)
        finally:
            self._work.checkpoint.release()

    def _is_ours(self) -> bool:
        found = read_lease(self._experiment_id, self._work.key)
        self.is_lost = found is not None and found.owner != self._lease.owner
        return not self.is_lost

    def _run(self) -> None:
        while not self._ended.wait(self._heartbeat):
            # The next sign may succeed; if none does in time, others take over
            with suppress(LineageError), short_patience():
                self.refresh()


def find_or_lease(
    leases: Leases, work: Work, find: Callable[[], T | None], notify: Callable[[str], None]
) -> T | None:
    """Return what is registered, or None once the lease on the work is ours.

    All ranks must call it. They look again every second instead of waiting in one collective, which would
    time out while another process works.

    Args:
        leases: Leases that the work is claimed from.
        work: Work that leads to what is looked for.
        find: Looks up the result, and may repair what a crash left.
        notify: Callback for one-line messages; told once of each process that is waited for.
    """
    told: str | None = None
    while True:
        result, holder = on_main_process(lambda: _look(leases, work, find))
        if result is not None or holder is None:
            return result
        if holder != told:
            notify(holder)
            told = holder
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _look(leases: Leases, work: Work, find: Callable[[], T | None]) -> tuple[T | None, str | None]:
    """Return the result, or else who works on it; None for both if the lease is ours now."""
    result = find()
    if result is not None:
        return result, None
    holder = leases.claim(work)
    if holder is not None:
        return None, holder
    try:
        result = find()  # the last holder may just have registered it
    except BaseException:
        leases.release(work.key)
        raise
    if result is not None:
        leases.release(work.key)
    return result, None
