"""Who trains a key, where several processes grow one family: one trains it, the others await it."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from lineage.training.devices import on_main_process

T = TypeVar("T")

_SECONDS_BETWEEN_LOOKS = 1.0


class Leases(Protocol):
    """Leases on keys; only rank 0 asks for them."""

    def claim(self, key: str) -> bool:
        """Whether ``key`` is ours to train now; nobody else gets it before it is released."""

    def release(self, key: str) -> None:
        """Leave ``key``, if it is ours, to others."""


class NoLeases:
    """Leases of a process that grows by itself: every key is free."""

    def claim(self, _key: str) -> bool:
        """Always."""
        return True

    def release(self, _key: str) -> None:
        """Nothing."""


def lease_or_find(
    leases: Leases, key: str, find: Callable[[], T | None], peek: Callable[[], T | None]
) -> T | None:
    """What stands under ``key``, or None once the key is ours to train.

    All ranks must call it. They look again and again, since a rank that waits for another one's hour is held
    for dead.

    Args:
        leases: To ask for the key.
        key: Of a generation.
        find: Looks for it where nobody else is at work on it, and may put right what was left.
        peek: Looks for it while somebody is, and changes nothing.
    """
    while True:
        is_ours, found = on_main_process(lambda: _look(leases, key, find, peek))
        if is_ours or found is not None:
            return found
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _look(
    leases: Leases, key: str, find: Callable[[], T | None], peek: Callable[[], T | None]
) -> tuple[bool, T | None]:
    """Whether the key is ours and stays so, and what was found under it."""
    if not leases.claim(key):
        return False, peek()
    is_ours = False
    try:
        found = find()
        is_ours = found is None
        return is_ours, found
    finally:
        if not is_ours:
            leases.release(key)
