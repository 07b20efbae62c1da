"""Image folders with one folder per class, as in ``ImageFolder`` and ILSVRC2012; streamed as RGB."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lineage.data.checks import check_images
from lineage.data.decoding import check_image, decode_rgb
from lineage.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataSet,
    DataSpec,
    require_folder,
)
from lineage.data.parts import TEST_PARTS, choose_test_part
from lineage.errors import NotFoundError, UsageError, suggestion
from lineage.formats import counted

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Streamed images in ``root/CLASS/**/FILE``.

    The file names are one array of bytes, and paths are joined on reading: a million paths as Python objects
    take hundreds of megabytes, which forked workers would copy by changing the reference counts.

    Attributes:
        root: Folder of one part.
        class_names: Class folders in the order of the labels.
        files: Paths within the class folders, bytes, shape (N,), sorted within each class.
        labels: Class of each image, int64, shape (N,).
    """

    root: Path
    class_names: tuple[str, ...]
    files: NDArray[np.bytes_]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.root / self.class_names[int(self.labels[index])] / os.fsdecode(self.files[index])

    def read(self, index: int) -> Tensor:
        """Decode one image to uint8, shape (3, H, W)."""
        return torch.from_numpy(decode_rgb(self.path(index), self._named(index))).permute(2, 0, 1)

    def check(self, index: int) -> None:
        """Check one image without decoding it; see ``check_image``."""
        check_image(self.path(index), self._named(index))

    def _named(self, index: int) -> str:
        return f"{self.path(index)} (class '{self.class_names[int(self.labels[index])]}')"


def build_imagefolder(root: Path | None, download: bool, image_size: int, test: str | None = None) -> DataSet:
    """Build a data set from ``train/CLASS/**`` and ``test/CLASS/**`` or ``val/CLASS/**``.

    The test part is the folder ``test``, or else the first of ``TEST_PARTS`` that has class folders.
    ``download`` is ignored. The digest covers parts, classes, file names and sizes, but not contents: see
    ``build_imagenet``.
    """
    return _build("imagefolder", require_folder("imagefolder", root), TEST_PARTS, image_size, test)


def build_imagenet(root: Path | None, download: bool, image_size: int, test: str | None = None) -> DataSet:
    """Build ILSVRC2012 from torchvision's layout, ``train/WNID/*.JPEG`` and ``val/WNID/*.JPEG``.

    ``download`` is ignored: the terms of ILSVRC2012 forbid it. Classes are named by their WordNet ids,
    because torchvision keeps the readable names in ``meta.bin``, a pickle.

    The digest covers the part, class, name and size in bytes of every file. Reading 1.28 million files before
    each training would take too long, so changed pixels in a file of unchanged name and size go unnoticed.
    """
    return _build("imagenet", require_folder("imagenet", root), ("val",), image_size, test)


def _build(
    name: str, root: Path, test_folders: tuple[str, ...], image_size: int, test: str | None
) -> DataSet:
    """Scan both parts; the digest covers each file's part, class, name and size, not its contents."""
    names = test_folders if test is None else (*test_folders, test)
    available = [part for part in dict.fromkeys(names) if part != "train" and (root / part).is_dir()]
    if not available or not (root / "train").is_dir():
        raise NotFoundError(
            f"Data set '{name}' must have folders train/CLASS and {' or '.join(test_folders)}/CLASS, but "
            f"{root} lacks one of them: it {_contents(root)}; correct data.root."
        )
    test_folder = choose_test_part(name, available, test, lambda part: _is_labelled(root / part))
    class_names = tuple(_class_folders(root / "train"))
    if not class_names:
        raise NotFoundError(
            f"{root / 'train'} must hold one folder per class, but {_contents(root / 'train')}; sort the "
            "images into such folders, or correct data.root."
        )
    for unknown in sorted(set(_class_folders(root / test_folder)) - set(class_names)):
        raise UsageError(
            f"Each class folder of {root / test_folder} must also be in train, but '{unknown}' is not; "
            f"remove it.{suggestion(unknown, class_names)}"
        )
    digest = hashlib.sha256()
    train = _scan(root / "train", class_names, digest)
    test_images = _scan(root / test_folder, class_names, digest)
    for part, images in (("train", train), (test_folder, test_images)):
        if len(images) == 0:
            raise NotFoundError(
                f"The class folders of {root / part} must hold images ({_suffixes()}), but they hold no such "
                f"file, and {root / part} {_contents(root / part)}; add some."
            )
    check_images(train, test_images)
    spec = DataSpec(
        name=name,
        class_names=class_names,
        superclasses=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_shape=(3, image_size, image_size),
        digest=digest.hexdigest(),
    )
    return DataSet(train, test_images, spec)


def _is_labelled(part: Path) -> bool:
    """Return whether the images of a part are in class folders; an empty part passes for labelled."""
    return bool(_class_folders(part)) or not _image_files(part)


def _contents(folder: Path) -> str:
    """Return what a folder holds, hidden entries included, such as "holds 5 files, such as 'a.png'"."""
    with os.scandir(folder) as entries:
        listed = sorted((not entry.is_dir(), entry.name) for entry in entries)
    files = sum(is_file for is_file, _ in listed)
    if not listed:
        return "is empty"
    kinds = [counted(len(listed) - files, "folder"), counted(files, "file")]
    return f"holds {kinds[0]} and {kinds[1]}, such as '{listed[0][1]}'"


def _class_folders(part: Path) -> list[str]:
    """List the class folders of one part, sorted, without hidden ones."""
    with os.scandir(part) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _scan(part: Path, class_names: tuple[str, ...], digest: "hashlib._Hash") -> FolderImages:
    """List the images of one part class by class, and add each file to the digest."""
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
    """Return path and size in bytes of each image below a folder, sorted by path.

    Links to folders are followed, as torchvision does. Hidden entries are left out: macOS puts files such as
    ``._1.jpg`` beside images, and notebooks keep copies in ``.ipynb_checkpoints``.
    """
    images = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(place, folder)
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = os.path.join(place, name)  # noqa: PTH118 - a million files: no objects
                images.append(
                    (os.fsencode(os.path.normpath(os.path.join(below, name))), os.stat(path).st_size)  # noqa: PTH116, PTH118
                )
    return sorted(images)


def _suffixes() -> str:
    return " ".join(SUFFIXES)
