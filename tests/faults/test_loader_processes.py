"""Loader processes that die or cannot hand a batch over."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from multiprocessing import resource_sharer
from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info

from lineage.data.batches import evaluation_batches
from lineage.data.datasets import DataSpec
from lineage.data.workers import WorkerError, lost_worker, require_shared_memory
from lineage.errors import UsageError

SPEC = DataSpec("odd", ("a",), None, (0.5,) * 3, (0.5,) * 3, (3, 64, 64), "0" * 64)


class OddImages:
    """Streamed images that do something to the loader process that reads them."""

    labels = torch.zeros(8, dtype=torch.int64)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def __len__(self) -> int:
        return 8

    def read(self, index: int) -> torch.Tensor:
        assert get_worker_info() is not None
        if index == 5:
            self.act()
        return torch.zeros(3, 70, 70, dtype=torch.uint8)


def read_all(act: Callable[[], None]) -> None:
    list(evaluation_batches(OddImages(act), SPEC, torch.arange(8), 2, workers=2))


def limit_files() -> None:
    """Let this process write no file over 4 KiB: shared memory is one, and a full one fails alike."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def test_batch_that_cannot_be_handed_over_ends_the_run_with_a_sentence() -> None:
    with pytest.raises(WorkerError, match=r"must be able to hand a batch over in /dev/shm, but") as told:
        read_all(limit_files)
    assert str(told.value).startswith("A loader process must")
    assert "\n" not in str(told.value)


def test_death_of_a_loader_process_is_told_in_a_sentence() -> None:
    def read_until_told() -> None:
        try:
            read_all(lambda: os.kill(os.getpid(), signal.SIGBUS))
        except (EOFError, OSError) as error:  # the main process was just fetching a batch
            assert "A loader process must live until the end" in str(lost_worker(error))
            signal.pause()  # torch's handler raises its own error
            raise

    with pytest.raises(RuntimeError) as raised:
        read_until_told()
    assert "one was lost: DataLoader worker (pid" in str(lost_worker(raised.value))


def test_connection_to_a_loader_process_that_breaks_is_told_in_a_sentence() -> None:
    with pytest.raises(OSError) as raised:
        resource_sharer._resource_sharer.get_connection(("/nowhere", 0))
    assert "one was lost: [Errno 2]" in str(lost_worker(raised.value))
    assert lost_worker(FileNotFoundError("no such file")) is None


def test_other_errors_are_not_taken_for_a_lost_process() -> None:
    assert lost_worker(RuntimeError("CUDA out of memory")) is None


def test_batches_that_do_not_fit_into_shared_memory_are_refused_before_training() -> None:
    free = shutil.disk_usage(Path("/dev/shm")).free
    require_shared_memory(0, free)
    require_shared_memory(2, 1000)
    with pytest.raises(UsageError, match=r"room for the 8 batches that data\.workers = 4 hold, .*--shm-size"):
        require_shared_memory(4, free)
