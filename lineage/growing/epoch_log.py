"""Epochs logged to the registry: each once, also if the registry does not answer for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from lineage.errors import UnreachableError
from lineage.registry.store.connection import require_answer, short_patience
from lineage.registry.store.runs import GenerationRun
from lineage.training.checkpoints import History
from lineage.training.turns import on_main_process

T = TypeVar("T")

_SECONDS_BETWEEN_TRIES = 5.0
_TRIES = 5  # of a generation in which the registry falls silent, and answers when it is asked again


class EpochLog:
    """Logs the epochs of a generation to its run; rank 0 alone uses it.

    An epoch is logged once, though one that is logged is trained again if the process dies before its
    checkpoint is complete. While the registry does not answer, training goes on: the metrics wait in the
    history, which every checkpoint holds, and are logged in their order once it answers.

    Args:
        run: Run of the generation.
        history: Metrics of all epochs so far.
        notify: Callback for one-line messages.
    """

    def __init__(self, run: GenerationRun, history: History, notify: Callable[[str], None]) -> None:
        self._run = run
        self._history = history
        self._notify = notify
        self._logged: set[int] | None = None  # to be asked for
        self._is_silent = False
        self._next_try = 0.0

    def log_new(self) -> None:
        """Log the epochs that the run does not have; leave them for later if the registry does not answer.

        Raises:
            RegistryError: If the registry refuses them.
        """
        if time.monotonic() < self._next_try:
            return
        try:
            with short_patience():
                self.log_all()
        except UnreachableError as error:
            if not self._is_silent:
                self._notify(f"{error} Training goes on, and metrics wait in the checkpoint.")
            self._is_silent = True
            self._next_try = time.monotonic() + _SECONDS_BETWEEN_TRIES
        else:
            if self._is_silent:
                self._notify("The store answers again, and has the metrics that waited.")
            self._is_silent = False

    def log_all(self) -> None:
        """Log the epochs that the run does not have.

        Raises:
            UnreachableError: If the registry does not answer.
            RegistryError: If it refuses them.
        """
        logged = self._run.logged_epochs() if self._logged is None else self._logged
        self._logged = None  # the registry may store what it fails to confirm
        for epoch, record in enumerate(self._history.epochs, start=1):
            if epoch not in logged:
                self._run.log_epoch(record, epoch)
                logged.add(epoch)
        self._logged = logged


def when_reachable(call: Callable[[], T], notify: Callable[[str], None]) -> T:
    """Return what ``call`` returns on rank 0, as soon as the registry answers; all ranks must call it.

    The ranks look again and again instead of waiting in one collective, which would time out.

    Args:
        call: Function that calls the registry, and may be called again after it failed.
        notify: Callback for one-line messages; told once that the registry is waited for.
    """
    told = False
    while True:
        result, problem = on_main_process(lambda: _attempt(call))
        if problem is None:
            return result[0]
        if not told:
            notify(f"{problem} Waiting for it; Ctrl-C leaves, and the same command continues here.")
            told = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def begin_while_reachable(work: Callable[[], T], notify: Callable[[str], None]) -> T:
    """Return what ``work`` returns; where the registry stops answering in it, begin it again afterwards.

    All ranks must call it, and ``work`` must raise the same error on all of them.

    Args:
        work: Function that may be begun again, as a generation is: what it trained lies in its checkpoint.
        notify: Callback for one-line messages.

    Raises:
        UnreachableError: If a part of the registry, such as its artifacts, stays silent alone.
    """
    for tries_left in reversed(range(_TRIES)):
        when_reachable(lambda: None, notify)
        try:
            return work()
        except UnreachableError as error:
            if not tries_left:
                raise
            notify(f"{error} This generation is begun again once it answers.")
            time.sleep(_SECONDS_BETWEEN_TRIES)
    raise AssertionError("the last try returns or raises")


def _attempt(call: Callable[[], T]) -> tuple[tuple[T, ...], str | None]:
    """Return the result as the only element, or nothing and why the registry does not answer."""
    try:
        require_answer()
        return (call(),), None
    except UnreachableError as error:
        return (), str(error)
