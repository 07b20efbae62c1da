"""Plain values that the figures of a report draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Point:
    """A mean over seeds in one generation.

    Attributes:
        generation: Index from 0.
        mean: Mean.
        interval: 95 % interval of the mean; None where one seed gives none.
    """

    generation: int
    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Panel:
    """One metric by generation.

    Attributes:
        title: Text above the panel.
        unit: Text of the vertical axis.
        scale: Factor of all values.
        lines: Points of each line by its label.
        zero: Whether a line marks 0.
    """

    title: str
    unit: str
    scale: float
    lines: Mapping[str, Sequence[Point]]
    zero: bool = False


@dataclass(frozen=True)
class Bins:
    """Reliability of one line in one generation.

    Attributes:
        confidence: Mean top probability of each bin that holds images, shape (M,).
        accuracy: Share of its images whose top class is the label, shape (M,).
        share: Its part of all images, shape (M,).
    """

    confidence: Numbers
    accuracy: Numbers
    share: Numbers


@dataclass(frozen=True)
class Pair:
    """A teacher and its student.

    Attributes:
        line: Label of the student's line.
        generation: Generation of the student.
        teacher: Test accuracy of the teacher.
        student: Test accuracy of the student.
        inverted: Whether a worse teacher of the family has a better student.
    """

    line: str
    generation: int
    teacher: float
    student: float
    inverted: bool


@dataclass(frozen=True)
class Guess:
    """The most probable classes of one image.

    Attributes:
        title: Which network it is.
        classes: Names of the classes, the most probable one first.
        probabilities: Their probabilities.
        label: Place of the right class among them; None if it is not.
    """

    title: str
    classes: Sequence[str]
    probabilities: Sequence[float]
    label: int | None


@dataclass(frozen=True)
class Example:
    """A test image with what two networks say of it.

    Attributes:
        title: Number of the image and its class.
        pixels: The image, shape (H, W, 3); None if it is not at hand.
        guesses: What each network says.
    """

    title: str
    pixels: Pixels | None
    guesses: Sequence[Guess]


@dataclass(frozen=True)
class Similarity:
    """How alike the classes are to a network.

    Attributes:
        title: Which network it is.
        matrix: Mean probability given to class j for images of class i, shape (C, C), ordered by superclass;
            a class's own is 0.
        names: Names of the classes in that order.
        borders: Places in that order where another superclass begins; none without superclasses.
    """

    title: str
    matrix: Numbers
    names: Sequence[str]
    borders: Sequence[int] = ()
