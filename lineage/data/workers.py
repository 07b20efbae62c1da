"""Loader processes: what they need, and how their errors reach the process that trains.

Processes hand batches over in shared memory, which lies in ``/dev/shm``; containers often have 64 MB there.
"""

import shutil
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from torch._utils import ExceptionWrapper

from lineage.errors import LineageError, UsageError
from lineage.formats import first_line

BATCHES_PER_WORKER = 2
"""Batches that each process loads ahead."""

_SHARED_MEMORY = Path("/dev/shm")
_MIB = 2**20


class RetoldError(LineageError):
    """An error whose sentence is the same in a loader process and in the main one.

    torch makes a worker's exception anew from its type and the text of its traceback, which ends with the
    type's name and our sentence.
    """

    def __init__(self, message: str) -> None:
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.rpartition(name)[2].rstrip())


class WorkerError(RetoldError):
    """A loader process died, or could not hand over what it had loaded."""


def stop_workers(loader: Any) -> None:
    """End a loader's persistent processes now, and not whenever it is collected.

    Args:
        loader: Loader, which Accelerate may have prepared; it starts new ones if it is iterated again.
    """
    own = getattr(loader, "base_dataloader", loader)
    if own.num_workers and own._iterator is not None:
        own._iterator._shutdown_workers()
        own._iterator = None


def require_shared_memory(workers: int, bytes_per_batch: int) -> None:
    """Check that all batches that loader processes hold at a time fit into shared memory.

    Args:
        workers: Number of loader processes; 0 needs no shared memory.
        bytes_per_batch: Size of a batch in bytes.

    Raises:
        UsageError: If they do not fit.
    """
    needed = workers * BATCHES_PER_WORKER * bytes_per_batch
    if workers == 0 or not _SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise UsageError(
            f"{_SHARED_MEMORY} must have room for the {workers * BATCHES_PER_WORKER} batches that "
            f"data.workers = {workers} hold, {needed / _MIB:.1f} MiB, but has {free / _MIB:.1f} MiB; lower "
            "data.workers or training.batch_size, or enlarge it, in Docker by --shm-size."
        )


def send_errors(_: int) -> None:
    """Make this loader process send an error where it cannot hand over a batch, at its start.

    Python would print a traceback and drop the batch, and the main process would wait for it for ever.
    """
    send: Callable[[Any, Exception, Any], None] = _send_error
    Queue._on_queue_feeder_error = send  # type: ignore[attr-defined]


def lost_worker(error: BaseException) -> WorkerError | None:
    """Return our error for one that says that a loader process died; None for any other error.

    torch says it, unless the main process is just fetching a batch: then the connection to the loader process
    breaks.
    """
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    is_broken = isinstance(error, (EOFError, OSError)) and any("resource_sharer" in file for file in files)
    if not is_broken and not str(error).startswith("DataLoader worker"):
        return None
    return WorkerError(
        "A loader process must live until the end of the run, but one was lost:"
        f" {first_line(error) or type(error).__name__}; check memory and /dev/shm, or lower data.workers."
    )


def _send_error(queue: "Queue[Any]", error: Exception, unsent: tuple[int, Any]) -> None:
    """Send the reason in place of a batch that could not be sent; called by the sending thread."""
    told = WorkerError(
        f"A loader process must be able to hand a batch over in {_SHARED_MEMORY}, but could not: "
        f"{first_line(error)}; lower data.workers or training.batch_size, or enlarge it, in Docker by "
        "--shm-size."
    )
    wrapped = ExceptionWrapper((WorkerError, told, None), "in a loader process")  # type: ignore[no-untyped-call]
    queue.put((unsent[0], wrapped))
