"""A teacher's soft targets on disk: its logits for every view of every training image.

They are stored once for all students: a view is a pure function of (data seed, view, sample), so the logits
that a teacher gave for it are right for every student that sees it. Layout of a folder::

    signals.json                  arrays and their format, with the SHA-256 of each file
    logits.npy                    of all classes: float16 (views, N, C), each less the largest of its image
    log_probabilities.npy         or of the k largest classes and the rest: float16 (views, N, k + 1) ...
    classes.npy                   ... with the indices of these k classes: int16 (views, N, k)
    explanation.npy               explanations of the likeliest class, if asked for: float16 (views, N, H * W)
    validation.npy, test.npy      class that the teacher predicts for each image of these subsets: int16
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt, TypeAdapter
from torch import Tensor

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import file_digest, read_problem
from lineage.training.soft_target_format import SoftTargetFormat

STRUCTURE_FILE = "signals.json"
SCHEMA = 1
SubsetName = Literal["validation", "test"]


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
                    f" {numpy_name(dtype)}, but holds {tuple(array.shape)} in {numpy_name(array.dtype)};"
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


@dataclass(frozen=True)
class Structure:
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


def _read_structure(folder: Path, remedy: str) -> Structure:
    file = _require_file(folder, STRUCTURE_FILE)
    content = file.read_bytes()
    try:
        schema = TypeAdapter(dict[str, Any]).validate_json(content).get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise IntegrityError(
                f"The schema of {file} must be at most {SCHEMA}, but is {schema}; update lineage."
            )
        return TypeAdapter(Structure).validate_json(content, strict=True)
    except (ValueError, UsageError) as error:
        raise IntegrityError(
            f"{file} must be what lineage wrote, but was altered: {read_problem(error)}; {remedy}."
        ) from error


def numpy_name(dtype: torch.dtype) -> str:
    """Return NumPy's name of a type, such as ``float16``."""
    return str(dtype).removeprefix("torch.")


def _require_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NotFoundError(
            f"Stored soft targets must hold {name}, but {folder} does not; delete the folder."
        )
    return path
