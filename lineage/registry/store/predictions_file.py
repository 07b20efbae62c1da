"""The file ``predictions.json``: what a network predicted on its test part, as text. Imports no torch.

It lies in the model's folder, so that it is downloaded, carried and removed with the weights, and the digest
of all files covers it. ``docs/reference/predictions.md`` describes the format.
"""

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter

from lineage.errors import IntegrityError
from lineage.formats import read_problem
from lineage.registry.store.predicted import Integers, Numbers, Predictions, Reliability

PREDICTIONS_FILE = "predictions.json"
NUM_RELIABILITY_BINS = 15
NUM_HISTOGRAM_BINS = 20
HISTOGRAMS = ("top_probability", "top_score_difference", "secondary_mass", "superclass_share")

_FORMAT = 1
_NUM_TOP_CLASSES = 5
_ONE = 2**16 - 1  # the probability 1 as it is stored
_MOST_IMAGES = 10**7
_MOST_CLASSES = 2**24
_CLASS_KINDS = {"u1": 2**8, "<u2": 2**16, "<u4": _MOST_CLASSES}


def make_predictions(
    labels: Integers,
    classes: Integers,
    probabilities: Numbers,
    scores: Mapping[str, Numbers],
    num_classes: int,
    top_k: int,
) -> Predictions:
    """Count the bins of what was predicted; a probability that is no number counts as 0.

    Args:
        labels: Class of each image, shape (N,).
        classes: Most probable classes, shape (N, k).
        probabilities: Their probabilities, shape (N, k).
        scores: Other scores of ``HISTOGRAMS``, shape (N,); what is no number is left out.
        num_classes: C.
        top_k: K of the scores.
    """
    probabilities = np.nan_to_num(probabilities.astype(np.float64))
    top = probabilities[:, 0]
    borders = np.arange(1, NUM_RELIABILITY_BINS) / NUM_RELIABILITY_BINS
    bins = np.digitize(top, borders, right=True)
    correct = classes[:, 0] == labels
    reliability = Reliability(
        np.bincount(bins, minlength=NUM_RELIABILITY_BINS),
        np.bincount(bins, top, minlength=NUM_RELIABILITY_BINS).astype(np.float64),
        np.bincount(bins[correct], minlength=NUM_RELIABILITY_BINS),
    )
    all_scores = {"top_probability": top, **scores}
    histograms = {name: _histogram(values) for name, values in all_scores.items()}
    return Predictions(labels, classes, probabilities, num_classes, top_k, reliability, histograms)


def _histogram(values: Numbers) -> Integers:
    kept = np.clip(values[np.isfinite(values)], 0, 1)
    return np.histogram(kept, NUM_HISTOGRAM_BINS, (0, 1))[0].astype(np.int64)


@dataclass(frozen=True)
class _BinsJson:
    count: tuple[Annotated[int, Field(ge=0)], ...]
    confidence: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]
    correct: tuple[Annotated[int, Field(ge=0)], ...]


@dataclass(frozen=True)
class _FileJson:
    images: Annotated[int, Field(ge=1, le=_MOST_IMAGES)]
    num_classes: Annotated[int, Field(ge=2, le=_MOST_CLASSES)]
    top_k: Annotated[int, Field(ge=2, le=_MOST_CLASSES)]
    labels: str
    classes: str
    probabilities: str
    reliability: _BinsJson
    histograms: dict[str, tuple[Annotated[int, Field(ge=0, le=_MOST_IMAGES)], ...]]


@dataclass(frozen=True)
class _FormatJson:
    format: int


_FORMAT_JSON = TypeAdapter(_FormatJson)
_FILE_JSON = TypeAdapter(_FileJson)


def predictions_text(predictions: Predictions) -> str:
    """Return the text of ``predictions.json``."""
    bins = predictions.reliability
    kind = _class_kind(predictions.num_classes)
    stored = np.rint(predictions.probabilities * _ONE)
    file = _FileJson(
        images=len(predictions),
        num_classes=predictions.num_classes,
        top_k=predictions.top_k,
        labels=_encode(predictions.labels, kind),
        classes=_encode(predictions.classes, kind),
        probabilities=_encode(np.clip(stored, 0, _ONE), "<u2"),
        reliability=_BinsJson(
            tuple(bins.count.tolist()),
            tuple(round(value, 9) for value in bins.confidence.tolist()),
            tuple(bins.correct.tolist()),
        ),
        histograms={name: tuple(counts.tolist()) for name, counts in predictions.histograms.items()},
    )
    return json.dumps({"format": _FORMAT} | asdict(file))


def parse_predictions(text: str | bytes, subject: str = PREDICTIONS_FILE) -> Predictions:
    """Return what ``predictions_text`` wrote.

    Args:
        text: Contents of the file.
        subject: Name of the file in errors.

    Raises:
        IntegrityError: If it is damaged, or a later version of the tool wrote it.
    """
    try:
        found = _FORMAT_JSON.validate_json(text).format
        if found > _FORMAT:
            raise IntegrityError(
                f"The format of {subject} must be at most {_FORMAT}, but is {found}; update lineage."
            )
        return _checked(_FILE_JSON.validate_json(text))
    except ValueError as error:
        raise IntegrityError(
            f"{subject} must be what lineage wrote, but is not ({read_problem(error)}); restore it."
        ) from error


def _checked(file: _FileJson) -> Predictions:
    """Return the arrays of a file whose fields fit each other.

    Raises:
        ValueError: If they do not.
    """
    shown, kind = min(_NUM_TOP_CLASSES, file.num_classes), _class_kind(file.num_classes)
    labels = _decode("labels", file.labels, kind, (file.images,))
    classes = _decode("classes", file.classes, kind, (file.images, shown))
    stored = _decode("probabilities", file.probabilities, "<u2", (file.images, shown))
    for name, values in (("labels", labels), ("classes", classes)):
        if values.max() >= file.num_classes:
            raise ValueError(f"'{name}': a class must be below {file.num_classes}, but is {values.max()}")
    ordered = np.sort(classes, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("'classes': the classes of an image must differ")
    if (stored[:, 1:] > stored[:, :-1]).any() or (stored.sum(axis=1) > _ONE + shown).any():
        raise ValueError("'probabilities': those of an image must fall, and sum to at most 1")
    bins = file.reliability
    shapes = {len(bins.count), len(bins.confidence), len(bins.correct)}
    if shapes != {NUM_RELIABILITY_BINS} or sum(bins.count) != file.images:
        raise ValueError(f"'reliability': {NUM_RELIABILITY_BINS} bins must hold {file.images} images")
    if any(most < part for most, part in zip(bins.count, bins.correct, strict=True)):
        raise ValueError("'reliability': no bin may have more correct images than images")
    for name, counts in file.histograms.items():
        if name not in HISTOGRAMS or len(counts) != NUM_HISTOGRAM_BINS or sum(counts) > file.images:
            raise ValueError(
                f"'histograms': {name!r} must be one of {', '.join(HISTOGRAMS)}, with {NUM_HISTOGRAM_BINS}"
                f" bins of at most {file.images} images"
            )
    return Predictions(
        labels=labels,
        classes=classes,
        probabilities=stored / _ONE,
        num_classes=file.num_classes,
        top_k=file.top_k,
        reliability=Reliability(np.array(bins.count), np.array(bins.confidence), np.array(bins.correct)),
        histograms={name: np.array(counts) for name, counts in file.histograms.items()},
    )


def _class_kind(num_classes: int) -> str:
    return next(kind for kind, most in _CLASS_KINDS.items() if num_classes <= most)


def _encode(values: npt.NDArray[Any], kind: str) -> str:
    """Return integers as text: columns one after the other, low bytes before high ones, deflated.

    Base64's alphabet for URLs has no ``/``: ``unpack`` puts new ids for texts such as ``name/1``.
    """
    columns = np.ascontiguousarray(values.astype(kind).T)
    planes = columns.reshape(-1, 1).view(np.uint8).T
    return base64.urlsafe_b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def _decode(name: str, text: str, kind: str, shape: tuple[int, ...]) -> Integers:
    """Return the integers in a text, without unpacking more than ``shape`` has.

    Raises:
        ValueError: If it is damaged, or holds fewer or more.
    """
    width = np.dtype(kind).itemsize
    length = math.prod(shape) * width
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(base64.b64decode(text, b"-_", validate=True), length + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"'{name}': {error}") from error
    if len(content) != length or not unpacking.eof or unpacking.unused_data:
        raise ValueError(f"'{name}': it must hold {length} bytes, for the shape {shape}")
    planes = np.frombuffer(content, np.uint8).reshape(width, -1)
    columns = np.ascontiguousarray(planes.T).view(kind).reshape(shape[::-1])
    return np.ascontiguousarray(columns.T).astype(np.int64)
