"""What one process does on its own while the others wait, however long it takes.

What rank 0 reads, downloads and uploads may take hours, in which a collective of the training would run into
its time-out. So the others wait in a group of their own, in which a working process says every now and then
that it lives. One that dies or is stopped is still found: its connections close, or it falls silent.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import ignite.distributed as idist
import torch.distributed as dist
from accelerate.utils import broadcast, send_to_device
from torch import nn

from lineage.errors import LineageError
from lineage.processes import is_first_on_machine, is_main_process
from lineage.training.devices import process_timeout

T = TypeVar("T")

_BEATS_PER_TIMEOUT = 4
_BUSY = "busy"


class _Outcome:
    """The result of an action, or the error that it raised."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: LineageError | None = None
        try:
            self.result = action()
        except LineageError as error:
            self.error = error


def on_main_process(action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 and give its result, or its error, to every rank.

    All ranks must call it, and wait as long as it takes. The result must be picklable where there are several
    processes; tensors in it should be on the CPU.

    Raises:
        LineageError: On every rank, the error that ``action`` raised on rank 0.
    """
    if idist.get_world_size() == 1:
        return action()
    group = _waiting_group(dist.group.WORLD)
    said: list[_Outcome | None] = [None]
    if is_main_process():
        with _beating(lambda: dist.broadcast_object_list([None], 0, group)):
            said = [_Outcome(action)]
        dist.broadcast_object_list(said, 0, group)
    else:
        dist.broadcast_object_list(said, 0, group)
        while said[0] is None:
            dist.broadcast_object_list(said, 0, group)
    outcome = said[0]
    assert outcome is not None
    if outcome.error is not None:
        raise outcome.error
    result: T = outcome.result
    return result


def in_turns(action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0, then on one process of every other machine, then on the rest.

    Files that the first process downloads are found by the later ones, whether machines share a disk or not.
    All ranks must call it, and each gets a result of its own.

    Raises:
        LineageError: On every rank, the first error that ``action`` raised on any.
    """
    if idist.get_world_size() == 1:
        return action()
    turn = 0 if is_main_process() else 1 if is_first_on_machine() else 2
    results: list[T] = []
    for now in range(3):
        error = None
        if now == turn:
            with _beating(lambda: _exchange(_BUSY)):
                outcome = _Outcome(action)
            results.append(outcome.result)
            error = outcome.error
        found = _exchange(error)
        while _BUSY in found:
            found = _exchange(error)
        for raised in found:
            if isinstance(raised, LineageError):
                raise raised
    return results[0]


def share_weights(network: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, in place."""
    if idist.get_world_size() > 1:
        broadcast([*network.parameters(), *network.buffers()])


def share_state(*holders: Any) -> None:
    """Give every rank what rank 0's holders, such as optimizers, return as ``state_dict``, in place."""
    if idist.get_world_size() == 1:
        return
    states = on_main_process(lambda: [send_to_device(holder.state_dict(), "cpu") for holder in holders])
    if not is_main_process():
        for holder, state in zip(holders, states, strict=True):
            holder.load_state_dict(state)


@cache
def _waiting_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """Return the group in which the processes of ``world`` wait; made when all of them first do."""
    group = dist.new_group(backend="gloo", timeout=process_timeout())
    assert isinstance(group, dist.ProcessGroup)  # which every rank of the world is in
    return group


def _exchange(status: str | LineageError | None) -> list[str | LineageError | None]:
    """Return the status of every rank, in order; all ranks must call it."""
    found: list[str | LineageError | None] = [None] * idist.get_world_size()
    dist.all_gather_object(found, status, _waiting_group(dist.group.WORLD))
    return found


@contextmanager
def _beating(beat: Callable[[], object]) -> Iterator[None]:
    """Call ``beat`` now and then from another thread, several times before the others would give up."""
    is_over = threading.Event()
    interval = process_timeout().total_seconds() / _BEATS_PER_TIMEOUT

    def beat_on() -> None:
        try:
            while not is_over.wait(interval):
                _tell_of_the_wait()
                beat()
        except RuntimeError:  # another process is gone, which what is said at the end will find as well
            return

    thread = threading.Thread(target=beat_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _tell_of_the_wait() -> None:
    """Say what the other processes wait for."""
    print(  # noqa: T201
        f"rank {idist.get_rank()} reads data or speaks to the registry; the other processes wait for it",
        file=sys.stderr,
        flush=True,
    )
