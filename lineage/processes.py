"""Rank of this process in a launch, and its end by signals; imports nothing heavy."""

import os
import signal
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


_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a cluster's end of time, a closed terminal
_LEAVES_AT_ONCE = 3


class _Interrupts:
    """Signals that ask this process to end.

    Attributes:
        count: Number of them so far.
        held: Number of ``uninterrupted`` blocks that are open.
        pending: Whether a signal waits for the end of those blocks.
    """

    def __init__(self) -> None:
        self.count = 0
        self.held = 0
        self.pending = False


_interrupts = _Interrupts()


def interrupt_on_signals() -> None:
    """Raise ``KeyboardInterrupt`` on the first SIGINT, SIGTERM or SIGHUP, so that the run is marked.

    Later ones do not disturb the marking, except that a third Ctrl-C leaves at once. A signal that the
    process was started to ignore, as ``nohup`` and ``&`` do, stays ignored.
    """
    _interrupts.count, _interrupts.held, _interrupts.pending = 0, 0, False
    for name in _ENDING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def leave_undisturbed() -> None:
    """Let a process that is about to exit do so: a launcher ends the others by SIGTERM, some of which leave.

    Ctrl-C ends it at once, without a traceback out of some function that runs at exit.
    """
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == _interrupt:
            signal.signal(number, signal.SIG_DFL if name == "SIGINT" else signal.SIG_IGN)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off a signal's ``KeyboardInterrupt`` until the block has ended, where the command line runs."""
    _interrupts.held += 1
    try:
        yield
    finally:
        _interrupts.held -= 1
        if _interrupts.pending and not _interrupts.held:
            _interrupts.pending = False
            raise KeyboardInterrupt


def _interrupt(number: int, _frame: FrameType | None) -> None:
    is_first = not _interrupts.count
    if is_first or number == signal.SIGINT:
        _interrupts.count += 1
    if is_first and _interrupts.held:
        _interrupts.pending = True
    elif is_first or _interrupts.count >= _LEAVES_AT_ONCE:
        raise KeyboardInterrupt
    elif number == signal.SIGINT and is_main_process():
        with suppress(OSError):
            os.write(2, b"The run is being marked as interrupted; Ctrl-C once more leaves at once.\n")
