"""Data of a page's image view: what a version and its teacher predicted of test images, as plain values."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lineage.errors import IntegrityError, NotFoundError
from lineage.registry.family.family import Version
from lineage.registry.packing.record import DataRecord
from lineage.registry.packing.recording import MEASURED_FILES, data_in
from lineage.registry.store.files import fetch_files
from lineage.registry.store.predicted import Predictions
from lineage.registry.store.predictions import predictions_in

MOST_IMAGES = 100_000  # that a page is given

Fetch = Callable[[str, Collection[str]], Mapping[str, bytes]]
"""Function that returns files of a logged model by name, as ``fetch_files`` does."""


class Measured(NamedTuple):
    """What the files of a version tell of its test part."""

    predictions: Predictions
    data: DataRecord


def image_document(
    version: Version, fetch: Fetch = fetch_files, rows: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return what a version and its teacher predicted of test images, for the page's script.

    The teacher is the logged model that the version is pinned to.

    Args:
        version: Version to show.
        fetch: Reads files of logged models.
        rows: Rows of the test part to show; by default the first ``MOST_IMAGES``.

    Returns:
        ``notes``, sentences on what is missing; ``networks``, empty if the version kept no predictions. Else
        also ``classes``, the names; ``data``, the digest of the data set; ``rows`` and ``labels`` of the
        images; ``top``, the number k of classes of each. A network has an ``id``, and ``classes`` and
        ``probabilities`` of all images, k of each, one after the other.

    Raises:
        RegistryError: If the store does not answer.
    """
    try:
        own = read_measured(version.model_id, version.uri, fetch)
    except (NotFoundError, IntegrityError) as error:
        return {"notes": [str(error)], "networks": []}
    networks, notes = {version.id: own.predictions}, []
    if version.teacher is not None:
        teacher, note = _read_teacher(version, own, fetch)
        networks |= {} if teacher is None else {version.teacher: teacher}
        notes += [note] if note else []
    predicted, names = own.predictions, own.data.class_names
    shown = np.arange(min(len(predicted), MOST_IMAGES)) if rows is None else np.array(rows, dtype=np.int64)
    if rows is None and len(predicted) > MOST_IMAGES:
        notes.append(f"Only the first {MOST_IMAGES:,} of {len(predicted):,} images are shown.")
    return {
        "notes": notes,
        "data": own.data.digest,
        "classes": list(names),
        "rows": shown.tolist(),
        "labels": predicted.labels[shown].tolist(),
        "top": predicted.classes.shape[1],
        "networks": [_network(name, found, shown) for name, found in networks.items()],
    }


def read_measured(model_id: str, uri: str, fetch: Fetch = fetch_files) -> Measured:
    """Read what a version predicted and on what.

    Args:
        model_id: Id of its logged model.
        uri: Name of the version in errors.
        fetch: Reads files of logged models.

    Raises:
        NotFoundError: If it kept no predictions.
        IntegrityError: If its files are damaged, or do not fit each other.
        RegistryError: If the store does not answer.
    """
    files = fetch(model_id, MEASURED_FILES) if model_id else {}
    predictions, data = predictions_in(files, uri), data_in(files, uri)
    num_names = 0 if data is None else len(data.class_names)
    if data is None or num_names != predictions.num_classes:
        raise IntegrityError(
            f"{uri} must name as many classes as it predicts, but names {num_names} and predicts"
            f" {predictions.num_classes}; restore its files."
        )
    return Measured(replace(predictions, class_names=data.class_names), data)


def _read_teacher(student: Version, own: Measured, fetch: Fetch) -> tuple[Predictions | None, str]:
    """Return what the teacher predicted of the same images; or None, and why not."""
    try:
        teacher = read_measured(student.teacher_model_id, f"models:/{student.teacher}", fetch)
    except (NotFoundError, IntegrityError) as error:
        return None, f"Its teacher is not shown. {error}"
    same_images = teacher.data.digest == own.data.digest
    if not same_images or not np.array_equal(teacher.predictions.labels, own.predictions.labels):
        return None, (
            f"Its teacher {student.teacher} is not shown: it was measured on other images, or on images of"
            " another size."
        )
    return teacher.predictions, ""


def _network(name: str, predicted: Predictions, rows: Any) -> dict[str, Any]:
    return {
        "id": name,
        "classes": predicted.classes[rows].ravel().tolist(),
        "probabilities": predicted.probabilities[rows].ravel().round(4).tolist(),
    }
