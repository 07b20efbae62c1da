"""What a teacher says of every view of every training image: stored once, read by all its students.

A view is a pure function of (data seed, view, sample): what a teacher said of it is right for every student
that sees it. The layout of a folder::

    signals.json                  what the arrays are, and the SHA-256 of each file
    logits.npy                    of all classes: float16 (views, N, C), each less the largest of its image
    log_probabilities.npy         or, of the k largest classes and of the rest: float16 (views, N, k + 1) ...
    classes.npy                   ... and which k these are: int16 (views, N, k)
    validation.npy, test.npy      the class that the teacher predicts for each image of these parts: int16
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.formats import file_digest

STRUCTURE_FILE = "signals.json"
PartName = Literal["validation", "test"]

_SCHEMA = 1
_LOWEST_LOGIT = torch.finfo(torch.float16).min
_SMALLEST_LOG = -60.0  # e⁻⁶⁰ is no probability any more, and 0 · ln 0 would be no number
_BYTES = 2  # of each stored number


@dataclass(frozen=True)
class SoftTargetFormat:
    """How one answer of a teacher is stored.

    Of all classes the logits are stored as float16, less their largest, which no softmax notices. At any
    temperature a probability p then comes back as q with |ln q - ln p| ≤ 2⁻¹¹ (ln C + ln p₁ - ln p), where p₁
    is the largest, to first order; a logit that lies more than 65,504 below the largest comes back there.

    Of the k largest classes, where all would take too much room, the logarithms of their probabilities and
    of the sum of the others are stored, at one temperature: these come back within 2⁻¹¹ of the logarithm,
    and the sum is spread evenly over the other classes. The total variation from the teacher is at most that
    sum.

    Attributes:
        num_classes: C.
        top: k, from 1 to C - 1, or None for all classes.
        temperature: Of the students; None for all classes, which serve any.
    """

    num_classes: int
    top: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None and not 1 <= self.top < self.num_classes:
            raise UsageError(
                "student.soft_target_classes must be at least 1 and below the number of classes,"
                f" {self.num_classes}, but got {self.top}; change it, or leave it out to store all."
            )
        if (self.top is None) != (self.temperature is None):
            raise ValueError("Top classes are stored at a temperature, all classes at none.")

    @property
    def arrays(self) -> dict[str, tuple[torch.dtype, int]]:
        """Name, type and width of what is stored of one image."""
        if self.top is None:
            return {"logits": (torch.float16, self.num_classes)}
        return {"log_probabilities": (torch.float16, self.top + 1), "classes": (torch.int16, self.top)}

    @property
    def bytes_an_image(self) -> int:
        """What one view of one image takes on the disk."""
        return _BYTES * sum(width for _, width in self.arrays.values())

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """What is stored of logits (B, C), by name; float16 or int64, and ``arrays`` wide."""
        logits = logits.float()
        if self.top is None:
            return {"logits": (logits - logits.amax(1, keepdim=True)).clamp_min(_LOWEST_LOGIT).half()}
        assert self.temperature is not None
        log_probabilities = torch.log_softmax(logits / self.temperature, dim=1)
        largest, classes = log_probabilities.topk(self.top, dim=1)
        rest = log_probabilities.scatter(1, classes, -math.inf).logsumexp(1, keepdim=True)
        stored = torch.cat([largest, rest], 1).clamp_min(_SMALLEST_LOG)
        return {"log_probabilities": stored.half(), "classes": classes}

    def decode(self, stored: Sequence[Tensor]) -> Tensor:
        """Logits, float32 (B, C), from what ``StoredSoftTargets.read`` gives, wherever that lies."""
        if self.top is None:
            return stored[0].float()
        assert self.temperature is not None
        log_probabilities, classes = stored
        scaled = log_probabilities.float() * self.temperature
        each = scaled[:, -1:] - self.temperature * math.log(self.num_classes - self.top)
        return each.expand(-1, self.num_classes).scatter(1, classes.long(), scaled[:, :-1])


class StoredSoftTargets:
    """A teacher's stored answers, mapped into memory: what is not read takes no room.

    Args:
        folder: In the layout above, complete.
        verify: Whether to compare the digests of the files, which reads them once.
        remedy: What to do where a file was altered, for the error.

    Raises:
        NotFoundError: If a file is missing.
        IntegrityError: If a file was altered, or a later version of the tool wrote it.
    """

    def __init__(
        self, folder: Path, verify: bool = True, remedy: str = "delete the folder to have it computed again"
    ) -> None:
        self.folder = folder
        structure = _read_structure(folder)
        self.form = SoftTargetFormat(**structure["form"])
        self.num_views: int = structure["views"]
        for name, digest in structure["sha256"].items():
            if verify and file_digest(_file(folder, name)) != digest:
                raise IntegrityError(
                    f"{folder / name} must be as it was stored, but its digest is another one; {remedy}."
                )

    def __getstate__(self) -> dict[str, Any]:
        """For a loader's worker: what is mapped is mapped again there, not copied."""
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

    @cached_property
    def _arrays(self) -> list[Tensor]:
        return [self._mapped(name) for name in self.form.arrays]

    def _mapped(self, name: str) -> Tensor:
        """An array that writing to would change in memory alone: torch warns of read-only ones."""
        array: NDArray[Any] = np.load(_file(self.folder, f"{name}.npy"), mmap_mode="c")
        return torch.from_numpy(array)

    def read(self, views: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """What was stored of some images.

        Args:
            views: From 1, int64 (B,).
            positions: Places of the images among those that train, int64 (B,).

        Returns:
            One tensor (B, width) for each of the form's arrays.
        """
        return tuple(array[views - 1, positions] for array in self._arrays)

    def predictions(self, part: PartName) -> Tensor:
        """The classes that the teacher predicts for the images of a part, int64 (n,)."""
        return self._mapped(part).long()


class SoftTargetFolder:
    """A folder of soft targets, written view by view; a killed process loses at most one view.

    Args:
        folder: Need not exist.
        form: How an answer is stored.
        num_views: To be written.
        num_images: N, that train.
    """

    def __init__(self, folder: Path, form: SoftTargetFormat, num_views: int, num_images: int) -> None:
        self.folder = folder
        self.form = form
        self.num_views = num_views
        self.num_images = num_images

    @property
    def is_complete(self) -> bool:
        """Whether all is written, digests included."""
        return (self.folder / STRUCTURE_FILE).is_file()

    @property
    def views_done(self) -> int:
        """How many views are complete on the disk."""
        if self.is_complete:
            return self.num_views
        note = self._progress
        return int(note.read_text()) if note.is_file() else 0

    @property
    def bytes_needed(self) -> int:
        """On the disk, when all is written."""
        return self.num_views * self.num_images * self.form.bytes_an_image

    def write_view(self, view: int, values: Mapping[str, Tensor]) -> None:
        """Keep one view, from 1, of all images: tensors (N, width) by the names of the form's arrays."""
        for name, (dtype, width) in self.form.arrays.items():
            array = self._open(name, dtype, width)
            array[view - 1] = values[name].to("cpu", dtype).numpy()
            array.flush()
        _write_whole(self._progress, str(view))

    def finish(self, predictions: Mapping[PartName, Tensor]) -> None:
        """Add the classes that the teacher predicts for each part, and the digests of all files."""
        for part, classes in predictions.items():
            np.save(self.folder / f"{part}.npy", classes.to("cpu", torch.int16).numpy())
        names = [f"{name}.npy" for name in (*self.form.arrays, *predictions)]
        structure = {
            "schema": _SCHEMA,
            "views": self.num_views,
            "form": asdict(self.form),
            "sha256": {name: file_digest(self.folder / name) for name in names},
        }
        self._progress.unlink(missing_ok=True)
        _write_whole(self.folder / STRUCTURE_FILE, json.dumps(structure, indent=1))

    @property
    def _progress(self) -> Path:
        return self.folder / "views-done"

    def _open(self, name: str, dtype: torch.dtype, width: int) -> "np.memmap[Any, Any]":
        path = self.folder / f"{name}.npy"
        if path.is_file():
            return open_memmap(path, mode="r+")
        self.folder.mkdir(parents=True, exist_ok=True)
        kind = np.dtype(str(dtype).removeprefix("torch."))
        return open_memmap(path, "w+", kind, (self.num_views, self.num_images, width))


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all, whenever the process is killed."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _read_structure(folder: Path) -> dict[str, Any]:
    try:
        structure: dict[str, Any] = json.loads(_file(folder, STRUCTURE_FILE).read_text())
        schema = int(structure["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder / STRUCTURE_FILE} must be what lineage wrote, but is not ({error}); delete the folder."
        ) from error
    if schema > _SCHEMA:
        raise IntegrityError(
            f"The soft targets' schema must be at most {_SCHEMA}, but is {schema}; update lineage."
        )
    return structure


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NotFoundError(
            f"Stored soft targets must hold {name}, but {folder} does not; delete the folder."
        )
    return path
