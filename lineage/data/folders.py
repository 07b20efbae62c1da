"""Image folders: one folder a class, as ``ImageFolder`` and ILSVRC2012 have them; streamed as RGB."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lineage.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataSet,
    DataSpec,
    decode_rgb,
    require_folder,
)
from lineage.errors import NotFoundError, UsageError, suggestion

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Streamed images in ``root/CLASS/FILE``.

    A million paths are hundreds of megabytes as Python objects, which forked workers would copy by counting
    references. So the file names are one array of bytes, and a path is put together when it is read.

    Attributes:
        root: The folder of one part.
        class_names: Folders of the classes, in the order of the labels.
        files: File names, bytes, shape (N,), sorted within each class.
        labels: int64, shape (N,).
    """

    root: Path
    class_names: tuple[str, ...]
    files: NDArray[np.bytes_]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Where an image lies."""
        return self.root / self.class_names[int(self.labels[index])] / os.fsdecode(self.files[index])

    def read(self, index: int) -> Tensor:
        """Decode one image to uint8, shape (3, H, W)."""
        path = self.path(index)
        return torch.from_numpy(decode_rgb(path, str(path))).permute(2, 0, 1)


def build_imagefolder(root: Path | None, download: bool, image_size: int) -> DataSet:
    """``train/CLASS/*`` with ``test/CLASS/*`` or ``val/CLASS/*``; there is nothing to download.

    Its digest covers parts, classes, file names and sizes, but no contents: see ``build_imagenet``.
    """
    return _build("imagefolder", require_folder("imagefolder", root), ("test", "val"), image_size)


def build_imagenet(root: Path | None, download: bool, image_size: int) -> DataSet:
    """ILSVRC2012 as torchvision lays it out: ``train/WNID/*.JPEG`` and ``val/WNID/*.JPEG``.

    Its terms forbid a download by a tool. Classes are named by their WordNet ids: torchvision's ``meta.bin``,
    which has the words, is a pickle.

    Its digest covers the part, class, name and size in bytes of every file. To read 1.28 million files before
    each training would take longer than it is worth: pixels that change while the file keeps name and size go
    unnoticed.
    """
    return _build("imagenet", require_folder("imagenet", root), ("val",), image_size)


def _build(name: str, root: Path, test_folders: tuple[str, ...], image_size: int) -> DataSet:
    """The two parts; the digest covers each file's part, class, name and size in bytes, not its contents."""
    test_folder = next((folder for folder in test_folders if (root / folder).is_dir()), None)
    if test_folder is None or not (root / "train").is_dir():
        raise NotFoundError(
            f"Data set '{name}' must have folders train/CLASS and {' or '.join(test_folders)}/CLASS, but "
            f"{root} has not; correct data.root."
        )
    class_names = tuple(_class_folders(root / "train"))
    if not class_names:
        raise NotFoundError(
            f"{root / 'train'} must hold one folder a class, but holds none; correct data.root."
        )
    for unknown in sorted(set(_class_folders(root / test_folder)) - set(class_names)):
        raise UsageError(
            f"Each class of {root / test_folder} must be one of train, but '{unknown}' is none; "
            f"remove it.{suggestion(unknown, class_names)}"
        )
    digest = hashlib.sha256()
    train = _scan(root / "train", class_names, digest)
    test = _scan(root / test_folder, class_names, digest)
    if len(test) == 0:
        raise NotFoundError(f"{root / test_folder} must hold images ({_suffixes()}), but holds none.")
    spec = DataSpec(
        name=name,
        class_names=class_names,
        superclasses=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_shape=(3, image_size, image_size),
        digest=digest.hexdigest(),
    )
    return DataSet(train, test, spec)


def _class_folders(part: Path) -> list[str]:
    """Names of the folders in one part, sorted, without hidden ones."""
    with os.scandir(part) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _scan(part: Path, class_names: tuple[str, ...], digest: "hashlib._Hash") -> FolderImages:
    """List one part class by class, and add each file to the digest."""
    files, counts = [], []
    for label, class_name in enumerate(class_names):
        listed = _image_files(part / class_name)
        for file, size in listed:
            digest.update(
                b"%s/%s/%s\0%d\0%d\n" % (_part_name(part), os.fsencode(class_name), file, size, label)
            )
        files.append(np.array([file for file, _ in listed], dtype=np.bytes_))
        counts.append(len(listed))
    labels = torch.repeat_interleave(torch.arange(len(class_names)), torch.tensor(counts))
    return FolderImages(part, class_names, np.concatenate(files), labels)


def _part_name(part: Path) -> bytes:
    return b"train" if part.name == "train" else b"test"


def _image_files(folder: Path) -> list[tuple[bytes, int]]:
    """Name and size in bytes of each image in a folder, sorted; none where the folder is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        images = [entry for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
    return sorted((os.fsencode(entry.name), entry.stat().st_size) for entry in images)


def _suffixes() -> str:
    return " ".join(SUFFIXES)
