"""A teacher's soft targets on disk: its logits for every view of every training image.

They are stored once for all students: a view is a pure function of (data seed, view, sample), so the logits
that a teacher gave for it are right for every student that sees it. Layout of a folder::

    signals.json                  arrays and their format, with the SHA-256 of each file
    logits.npy                    of all classes: float16 (views, N, C), each less the largest of its image
    log_probabilities.npy         or of the k largest classes and the rest: float16 (views, N, k + 1) ...
    classes.npy                   ... with the indices of these k classes: int16 (views, N, k)
    validation.npy, test.npy      class that the teacher predicts for each image of these subsets: int16
"""

import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import PositiveInt, TypeAdapter
from torch import Tensor

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import file_digest, read_problem
from lineage.training.soft_target_format import SoftTargetFormat

STRUCTURE_FILE = "signals.json"
SubsetName = Literal["validation", "test"]

_SCHEMA = 1
_BYTES_PER_BLOCK = 512  # of st_blocks, whatever the file system
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoredSoftTargets:
    """A teacher's stored soft targets, mapped into memory: only what is read takes room there.

    Args:
        folder: Complete folder in the layout above.
        verify: Whether to compare the digests of the files, which reads them once.
        remedy: Advice about altered files, for the error.

    Raises:
        NotFoundError: If a file is missing.
        IntegrityError: If a file was altered, or a later version of ``lineage`` wrote it.
    """

    def __init__(
        self, folder: Path, verify: bool = True, remedy: str = "delete the folder to have it computed again"
    ) -> None:
        self.folder = folder
        structure = _read_structure(folder, remedy)
        self.format = structure.form
        self.num_views = structure.views
        for name, digest in structure.sha256.items():
            if verify and file_digest(_require_file(folder, name)) != digest:
                raise IntegrityError(
                    f"{folder / name} must be as it was stored, but its digest is another one; {remedy}."
                )
        for name, (dtype, width) in self.format.arrays.items():
            array = self._map(name)
            if array.dtype != dtype or array.ndim != 3 or array.shape[::2] != (self.num_views, width):
                raise IntegrityError(
                    f"{folder / name}.npy must hold {self.num_views} views of {width} values in"
                    f" {_numpy_name(dtype)}, but holds {tuple(array.shape)} in {_numpy_name(array.dtype)};"
                    f" {remedy}."
                )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapped arrays: a loader's worker maps the files itself."""
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

    @cached_property
    def _arrays(self) -> list[Tensor]:
        return [self._map(name) for name in self.format.arrays]

    def _map(self, name: str) -> Tensor:
        """Map an array copy-on-write: torch warns of read-only ones."""
        array: NDArray[Any] = np.load(_require_file(self.folder, f"{name}.npy"), mmap_mode="c")
        return torch.from_numpy(array)

    def read(self, views: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Return the stored values of some images.

        Args:
            views: View numbers from 1, int64 (B,).
            positions: Positions of the images among those that train, int64 (B,).

        Returns:
            One tensor (B, width) for each of the format's arrays.
        """
        return tuple(array[views - 1, positions] for array in self._arrays)

    def predictions(self, subset: SubsetName) -> Tensor:
        """Return the classes that the teacher predicts for the images of a subset, int64 (n,)."""
        return self._map(subset).long()


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
                    open_memmap(self._file(name), "w+", np.dtype(_numpy_name(dtype)), shape)  # a sparse file
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
            structure = _Structure(
                schema=_SCHEMA,
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


@dataclass(frozen=True)
class _Structure:
    """Contents of ``signals.json``.

    Attributes:
        schema: Version of the layout.
        views: Number of views.
        form: Encoding of the logits.
        sha256: Digest of each file, in hexadecimal.
    """

    schema: int
    views: PositiveInt
    form: SoftTargetFormat
    sha256: dict[str, str]

    def __post_init__(self) -> None:
        missing = {f"{name}.npy" for name in self.form.arrays} - self.sha256.keys()
        if missing:
            raise ValueError(f"sha256 lacks {', '.join(sorted(missing))}")


def _read_structure(folder: Path, remedy: str) -> _Structure:
    file = _require_file(folder, STRUCTURE_FILE)
    content = file.read_bytes()
    try:
        schema = TypeAdapter(dict[str, Any]).validate_json(content).get("schema")
        if isinstance(schema, int) and schema > _SCHEMA:
            raise IntegrityError(
                f"The schema of {file} must be at most {_SCHEMA}, but is {schema}; update lineage."
            )
        return TypeAdapter(_Structure).validate_json(content, strict=True)
    except (ValueError, UsageError) as error:
        raise IntegrityError(
            f"{file} must be what lineage wrote, but was altered: {read_problem(error)}; {remedy}."
        ) from error


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


def _numpy_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is complete or absent, whenever the process is killed."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _require_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NotFoundError(
            f"Stored soft targets must hold {name}, but {folder} does not; delete the folder."
        )
    return path
