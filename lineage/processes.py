"""Rank of this process in a launch, and its end by signals; imports nothing heavy."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

LAUNCHED = "LINEAGE_LAUNCHED"
"""Environment variable of processes that a command of ours has started; their parent reports deaths."""


def is_main_process() -> bool:
    """Whether this process is rank 0, known before any process group is open."""
    return os.environ.get("RANK", "0") == "0"


def is_first_on_machine() -> bool:
    """Whether this process is the first of its machine."""
    return is_main_process() or os.environ.get("LOCAL_RANK") == "0"


def was_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ


ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Ctrl-C, end of time, closed terminal, SLURM's warning
_LEAVES_AT_ONCE = 3
_SECONDS_UNTIL_AGAIN = 0.05


class _Interrupts:
    """Signals that ask this process to end.

    Attributes:
        count: Number of them so far.
        holders: What puts the exception off: open ``uninterrupted`` blocks and connections to databases.
        is_due: Whether the exception is still to be raised, once nothing holds it.
        comes_again: Whether the next signal is one of before, which this process sends itself.
        number: A signal that is handled.
    """

    def __init__(self) -> None:
        self.count = 0
        self.holders: set[object] = set()
        self.is_due = False
        self.comes_again = False
        self.number = signal.SIGTERM


_interrupts = _Interrupts()
_print_dropped = sys.unraisablehook  # what reports dropped exceptions that are not ours


def interrupt_on_signals() -> None:
    """Raise ``KeyboardInterrupt`` on the first SIGINT, SIGTERM, SIGHUP or SIGUSR1: the run is marked then.

    Later ones do not disturb the marking, except that a third Ctrl-C leaves at once. A signal that the
    process was started to ignore, as ``nohup`` and ``&`` do, stays ignored. Where Python drops the exception,
    as it does in a callback of a weak reference or in ``__del__``, it is raised again a moment later.
    """
    global _interrupts, _print_dropped
    _interrupts = _Interrupts()
    for name in ENDING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP and SIGUSR1
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
            _interrupts.number = number
    if sys.unraisablehook != _raise_again:
        _print_dropped, sys.unraisablehook = sys.unraisablehook, _raise_again


def leave_undisturbed() -> None:
    """Let a process that is about to exit do so: a launcher ends the others by SIGTERM, some of which leave.

    Ctrl-C ends it at once, without a traceback out of some function that runs at exit.
    """
    for name in ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == _interrupt:
            signal.signal(number, signal.SIG_DFL if name == "SIGINT" else signal.SIG_IGN)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off a signal's ``KeyboardInterrupt`` until the block has ended, where the command line runs."""
    block = object()
    _interrupts.holders.add(block)
    try:
        yield
    finally:
        _interrupts.holders.discard(block)
        if _interrupts.is_due and not _interrupts.holders:
            _interrupts.is_due = False
            raise KeyboardInterrupt


def hold_interrupts(connection: object) -> None:
    """Put off a signal's ``KeyboardInterrupt`` until ``release_interrupts``, if this is the main thread.

    An exception in the middle of a transaction leaves it open, and with it the lock of the database that the
    marking of the run then waits for.
    """
    if threading.current_thread() is threading.main_thread():
        _interrupts.holders.add(connection)


def release_interrupts(connection: object) -> None:
    """End what ``hold_interrupts`` began; the exception comes a moment later, not inside this call."""
    _interrupts.holders.discard(connection)
    if _interrupts.is_due and not _interrupts.holders:
        _signal_soon()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    came_before, _interrupts.comes_again = _interrupts.comes_again, False
    if not came_before and (number == signal.SIGINT or not _interrupts.count):
        _interrupts.is_due |= not _interrupts.count
        _interrupts.count += 1
    is_due = _interrupts.is_due and not _interrupts.holders
    if is_due or _interrupts.count >= _LEAVES_AT_ONCE:
        _interrupts.is_due = False
        raise KeyboardInterrupt
    if number == signal.SIGINT and _interrupts.count > 1 and not came_before and is_main_process():
        with suppress(OSError):
            os.write(2, b"The run is being marked as interrupted; Ctrl-C once more leaves at once.\n")


def _raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt again after a place that drops exceptions has dropped ours; report others as before."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _interrupts.is_due = True
        _signal_soon()
    else:
        _print_dropped(unraisable)


def _signal_soon() -> None:
    """Send this process one more signal, when its main thread is likely to be elsewhere."""
    timer = threading.Timer(_SECONDS_UNTIL_AGAIN, _signal_again)
    timer.daemon = True
    timer.start()


def _signal_again() -> None:
    if _interrupts.is_due:
        _interrupts.comes_again = True
        signal.pthread_kill(threading.main_thread().ident or 0, _interrupts.number)
