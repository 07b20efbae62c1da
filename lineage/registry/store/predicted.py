"""What a network predicted on its test part, as arrays. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lineage.formats import quantity

if TYPE_CHECKING:
    import pandas as pd

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reliability:
    """Bins of equal width over [0, 1] by top probability, a border belonging to the bin below it.

    Attributes:
        count: Number of images in each bin, shape (15,).
        confidence: Sum of their top probabilities, shape (15,).
        correct: Number of them whose label is the top class, shape (15,).
    """

    count: Integers
    confidence: Numbers
    correct: Integers

    @property
    def calibration_error(self) -> float:
        """Expected calibration error."""
        return float(np.abs(self.correct - self.confidence).sum() / self.count.sum())


@dataclass(frozen=True, eq=False)
class Predictions:
    """The most probable classes of N test images, in the order of the test part.

    Attributes:
        labels: Class of each image, shape (N,).
        classes: The k = min(5, C) most probable classes, the most probable one first, shape (N, k).
        probabilities: Their probabilities to 1/65535, shape (N, k).
        num_classes: C.
        top_k: K of secondary mass and top score difference.
        reliability: Bins of the reliability diagram.
        histograms: Number of images in 20 bins of equal width over [0, 1], by score: ``top_probability``,
            ``top_score_difference``, ``secondary_mass`` and, where the data set has superclasses,
            ``superclass_share``, the part of an image's secondary mass inside its label's superclass.
        class_names: Names of all classes in the order of the labels; () if they were not read.
    """

    labels: Integers
    classes: Integers
    probabilities: Numbers
    num_classes: int
    top_k: int
    reliability: Reliability
    histograms: Mapping[str, Integers]
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        accuracy = quantity("accuracy", self.accuracy)
        return f"<Predictions of {len(self)} images in {self.num_classes} classes: accuracy {accuracy}>"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """Share of the images whose label is the most probable class."""
        return float((self.classes[:, 0] == self.labels).mean())

    @property
    def indices(self) -> Integers:
        """Index of each image in the test part, shape (N,)."""
        return np.arange(len(self))

    @property
    def class_accuracy(self) -> Numbers:
        """Share of the images of each class that are put into it, shape (C,); NaN for a class without any."""
        from sklearn.metrics import recall_score

        shares: Numbers = recall_score(
            self.labels,
            self.classes[:, 0],
            labels=range(self.num_classes),
            average=None,
            zero_division=np.nan,
        )
        return shares

    @property
    def confusion(self) -> Integers:
        """Number of the images of class i whose most probable class is j, shape (C, C)."""
        from sklearn.metrics import confusion_matrix

        counts: Integers = confusion_matrix(self.labels, self.classes[:, 0], labels=range(self.num_classes))
        return counts

    def frame(self) -> "pd.DataFrame":
        """Return a table with one row for each image, by its index in the test part.

        Returns:
            Columns ``label`` and ``predicted``, the class and the most probable one by name where names are
            known, ``correct``, ``probability`` of the predicted class, and ``label_probability``, NaN where
            the label is not among the k classes.
        """
        import pandas as pd

        names = np.array(self.class_names or range(self.num_classes))
        is_label = self.classes == self.labels[:, None]
        of_label = np.where(is_label, self.probabilities, 0).sum(axis=1)
        return pd.DataFrame(
            {
                "label": names[self.labels],
                "predicted": names[self.classes[:, 0]],
                "correct": is_label[:, 0],
                "probability": self.probabilities[:, 0],
                "label_probability": np.where(is_label.any(axis=1), of_label, np.nan),
            },
            index=pd.Index(self.indices, name="image"),
        )
