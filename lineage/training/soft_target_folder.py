"""A folder of soft targets while it is written: arrays on the disk, view by view; see ``soft_targets``."""

import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from lineage.errors import UsageError
from lineage.formats import file_digest
from lineage.training.soft_target_format import SoftTargetFormat
from lineage.training.soft_targets import SCHEMA, STRUCTURE_FILE, Structure, SubsetName, numpy_name

_BYTES_PER_BLOCK = 512  # of st_blocks, whatever the file system
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class SoftTargetFolder:
    """A folder of soft targets that is written view by view; a killed process loses at most one view.

    Values are written through file objects, not through a memory map: on a full disk a map ends the process
    by SIGBUS, a write raises an error.

    Args:
        folder: Path of the folder, which need not exist.
        format: Encoding of the logits.
        num_views: Number of views that will be written.
        num_images: Number of training images N.
    """

    def __init__(self, folder: Path, format: SoftTargetFormat, num_views: int, num_images: int) -> None:
        self.folder = folder
        self.format = format
        self.num_views = num_views
        self.num_images = num_images

    @property
    def is_complete(self) -> bool:
        """Whether everything is written, digests included."""
        return (self.folder / STRUCTURE_FILE).is_file()

    @property
    def views_done(self) -> int:
        """Number of views that are complete on the disk."""
        if self.is_complete:
            return self.num_views
        return int(self._progress.read_text()) if self._progress.is_file() else 0

    @property
    def num_bytes(self) -> int:
        """Size of the arrays on the disk when every view is written."""
        return self.num_views * self.num_images * self.format.bytes_per_image

    @property
    def num_bytes_missing(self) -> int:
        """Part of ``num_bytes`` that the disk has not allocated yet."""
        files = filter(Path.is_file, map(self._file, self.format.arrays))
        return max(0, self.num_bytes - sum(file.stat().st_blocks * _BYTES_PER_BLOCK for file in files))

    def reserve(self) -> None:
        """Create the arrays and allocate their room on the disk; called whenever writing starts or resumes.

        Raises:
            UsageError: If the disk has no room for what is not written yet.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.num_bytes_missing > shutil.disk_usage(self.folder).free:
            raise self._no_room()
        for name, (dtype, width) in self.format.arrays.items():
            shape = (self.num_views, self.num_images, width)
            with self._told_if_full():
                if not self._file(name).is_file():
                    open_memmap(self._file(name), "w+", np.dtype(numpy_name(dtype)), shape)  # a sparse file
                _allocate(self._file(name))

    def write_view(self, view: int, values: Mapping[str, Tensor]) -> None:
        """Write one view of all images; ``reserve`` must have been called.

        Args:
            view: Number of the view, from 1.
            values: Tensors (N, width) by the names of the format's arrays.

        Raises:
            UsageError: If the disk is full.
        """
        for name, (dtype, _) in self.format.arrays.items():
            array = values[name].to("cpu", dtype).contiguous().numpy()
            with self._told_if_full(), self._file(name).open("r+b") as file:
                file.seek((view - 1 - self.num_views) * array.nbytes, os.SEEK_END)  # the header comes first
                file.write(array.data)
                file.flush()
                os.fsync(file.fileno())
        with self._told_if_full():
            _write_whole(self._progress, str(view).encode())

    def finish(self, predictions: Mapping[SubsetName, Tensor]) -> None:
        """Add the classes that the teacher predicts for each subset, and the digests of all files."""
        with self._told_if_full():
            for subset, classes in predictions.items():
                content = io.BytesIO()
                np.save(content, classes.to("cpu", torch.int16).numpy())
                self._file(subset).write_bytes(content.getvalue())
            names = [f"{name}.npy" for name in (*self.format.arrays, *predictions)]
            structure = Structure(
                schema=SCHEMA,
                views=self.num_views,
                form=self.format,
                sha256={name: file_digest(self.folder / name) for name in names},
            )
            _write_whole(self.folder / STRUCTURE_FILE, json.dumps(asdict(structure), indent=1).encode())
        self._progress.unlink(missing_ok=True)

    @property
    def _progress(self) -> Path:
        return self.folder / "views-done"

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    @contextmanager
    def _told_if_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK_IS_FULL:
                raise
            raise self._no_room() from error

    def _no_room(self) -> UsageError:
        free = shutil.disk_usage(self.folder).free
        return UsageError(
            f"The disk must have room for the teacher's soft targets, {self.num_bytes_missing / 1e9:,.1f} GB"
            f" in {self.folder}, but has {free / 1e9:,.1f} GB; lower student.views, set"
            " student.soft_target_classes to keep only the largest classes, or set LINEAGE_HOME to a folder"
            " on another disk."
        )


def _allocate(file: Path) -> None:
    """Give a sparse file its blocks on the disk, so that other programs cannot take them."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is complete or absent, whenever the process is killed."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
