"""Data sets that several processes of one machine hold in memory once.

The images are written into a file in memory, which every process maps: the pages are the same for all, and
what one process were to write would be seen by that process alone. The system frees them with the last one.
"""

import os
import tempfile
from typing import IO

import torch

from lineage.data.images import DataSet, DataSpec, MemoryImages


def share(dataset: DataSet) -> IO[bytes] | None:
    """Return an open file that ``load_shared`` maps; None for images that are streamed from their own files.

    The file has no name and needs no room in ``/dev/shm``, which is small in containers; where the system has
    no files in memory, as macOS, it lies in the folder for temporary files.
    """
    train, test = dataset.train, dataset.test
    if not isinstance(train, MemoryImages) or not isinstance(test, MemoryImages):
        return None
    file = _open_memory() if hasattr(os, "memfd_create") else tempfile.TemporaryFile()  # noqa: SIM115
    parts = {
        name: {"pixels": part.pixels.contiguous(), "labels": part.labels.contiguous()}
        for name, part in (("train", train), ("test", test))
    }
    torch.save(parts | {"spec": dataset.spec.to_json()}, file)
    file.flush()
    return file


def _open_memory() -> IO[bytes]:
    return os.fdopen(os.memfd_create("lineage-data"), "w+b")


def load_shared(descriptor: int) -> DataSet:
    """Return the data set in a file that ``share`` wrote, without a copy of its images.

    Args:
        descriptor: Number of the open file in this process.
    """
    parts = torch.load(f"/dev/fd/{descriptor}", mmap=True, weights_only=True)
    train, test = (MemoryImages(**parts[name]) for name in ("train", "test"))
    return DataSet(train, test, DataSpec.from_json(parts["spec"]))
