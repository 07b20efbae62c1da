"""Checks of a data set before anything is trained on it."""

import logging
from collections import Counter
from typing import Protocol

import torch
from torch import Tensor

from lineage.data.images import DataSet
from lineage.errors import IntegrityError
from lineage.processes import is_main_process

MOST_CHECKED = 20_000
"""Largest number of training images that are checked one by one; a test part is checked whatever its size."""


class CheckedImages(Protocol):
    """Streamed images that can be checked without decoding them."""

    def __len__(self) -> int: ...

    def check(self, index: int) -> None:
        """Check one image.

        Raises:
            ImageError: If the image is broken.
        """


def check_images(train: CheckedImages, test: CheckedImages) -> None:
    """Check all images of the test part, and those of a training part of up to ``MOST_CHECKED``.

    A broken image found only when it is read would cost what has been trained, because removing it changes
    the digest of the data.

    Raises:
        ImageError: If an image is broken; the message names it.
    """
    for part in (test, *([train] if len(train) <= MOST_CHECKED else [])):
        for index in range(len(part)):
            part.check(index)


def check_classes(dataset: DataSet) -> DataSet:
    """Return a data set whose classes are named once each; classes without test images are logged.

    Raises:
        IntegrityError: If two classes have the same name.
    """
    names = dataset.spec.class_names
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        numbers = " and ".join(str(number) for number, name in enumerate(names) if name == twice)
        raise IntegrityError(
            f"Each class of data set '{dataset.spec.name}' must have a name of its own, but {numbers} are "
            f"all '{twice}'; rename or join them."
        )
    absent = _absentees(dataset.test.labels, names)
    if absent and is_main_process():
        logging.getLogger(__name__).warning(
            "The test part of data set '%s' has no image of %s.", dataset.spec.name, absent
        )
    return dataset


def _absentees(labels: Tensor, class_names: tuple[str, ...]) -> str:
    """Return the names of up to five classes without an image; empty if there are none."""
    counts = torch.bincount(labels, minlength=len(class_names))
    absent = (counts == 0).nonzero().flatten().tolist()
    more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
    return ", ".join(f"'{class_names[label]}'" for label in absent[:5]) + more
