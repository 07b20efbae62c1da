"""Leases on keys: of several processes that grow one family, one trains a key and the others wait for it."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from lineage.training.devices import on_main_process

T = TypeVar("T")

_SECONDS_BETWEEN_LOOKS = 1.0


class Leases(Protocol):
    """Leases on keys, used by rank 0 alone."""

    def claim(self, key: str) -> bool:
        """Take the lease on ``key`` and return whether it is ours; others get it once it is released."""

    def release(self, key: str) -> None:
        """Give up the lease on ``key``, if it is ours."""


class NoLeases:
    """Leases of a process that grows a family alone: every key is free."""

    def claim(self, _key: str) -> bool:
        """Return True."""
        return True

    def release(self, _key: str) -> None:
        """Do nothing."""


def find_or_lease(
    leases: Leases, key: str, find: Callable[[], T | None], peek: Callable[[], T | None]
) -> T | None:
    """Return what is registered under ``key``, or None once the lease on the key is ours.

    All ranks must call it. They look again every second instead of waiting in one collective, which would
    time out while another process trains the key.

    Args:
        leases: Leases that the key is claimed from.
        key: Key of a generation or of soft targets.
        find: Looks the key up while the lease is ours, and may repair what a crash left.
        peek: Looks the key up while another process has the lease, and changes nothing.
    """
    while True:
        is_ours, result = on_main_process(lambda: _look(leases, key, find, peek))
        if is_ours or result is not None:
            return result
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _look(
    leases: Leases, key: str, find: Callable[[], T | None], peek: Callable[[], T | None]
) -> tuple[bool, T | None]:
    """Return whether the lease is ours to keep, and what is registered under the key."""
    if not leases.claim(key):
        return False, peek()
    is_ours = False
    try:
        result = find()
        is_ours = result is None
        return is_ours, result
    finally:
        if not is_ours:
            leases.release(key)
