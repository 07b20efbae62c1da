"""Predictions are written beside the weights in few bytes, and read or refused in one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage.errors import AlteredFilesError, IntegrityError, LineageError, NotFoundError
from lineage.registry.family.family import Version
from lineage.registry.flavor import LoadedModel, load_version, log_model
from lineage.registry.store.files import fetch_files
from lineage.registry.store.predictions import predictions_in
from lineage.registry.store.predictions_file import (
    PREDICTIONS_FILE,
    Predictions,
    make_predictions,
    parse_predictions,
    predictions_text,
)

MOST_BYTES = 200_000  # of 10,000 images


def predicted(num_images: int = 40, num_classes: int = 7, softness: float = 1.0) -> Predictions:
    """Predictions of random logits, with all scores."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(num_images, num_classes)) / softness
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    classes = np.argsort(-probabilities, axis=1)[:, :5]
    top = np.take_along_axis(probabilities, classes, axis=1)
    mass = top[:, 1:].sum(axis=1)
    scores = {
        "top_score_difference": top[:, 0] - mass / 4,
        "secondary_mass": mass,
        "superclass_share": np.where(random.random(num_images) < 0.5, np.nan, 0.3),
    }
    labels = random.integers(num_classes, size=num_images)
    return make_predictions(labels, classes, top, scores, num_classes, 5)


TEXT = predictions_text(predicted())


@pytest.mark.parametrize("num_classes", [2, 7, 256, 257, 70_000])
def test_arrays_come_back(num_classes: int) -> None:
    before = predicted(num_images=9, num_classes=num_classes)
    after = parse_predictions(predictions_text(before))
    assert (after.labels == before.labels).all()
    assert (after.classes == before.classes).all()
    assert np.abs(after.probabilities - before.probabilities).max() <= 0.5 / 65535 + 1e-12
    assert (after.num_classes, after.top_k, len(after)) == (num_classes, 5, 9)
    assert after.accuracy == before.accuracy
    for name, counts in before.histograms.items():
        assert (after.histograms[name] == counts).all(), name
    assert after.reliability.calibration_error == pytest.approx(before.reliability.calibration_error)


def test_classes_are_counted_as_by_hand() -> None:
    found = predicted(num_images=40, num_classes=7)
    for label in range(7):
        own = found.classes[found.labels == label, 0]
        assert found.confusion[label].tolist() == [(own == other).sum() for other in range(7)]
        assert found.class_accuracy[label] == pytest.approx((own == label).mean())
    assert found.confusion.trace() == round(40 * found.accuracy)
    top = np.array([[0.9, 0.1]])
    alone = make_predictions(np.array([1]), np.array([[1, 0]]), top, {}, 3, 2)
    assert np.isnan(alone.class_accuracy).tolist() == [True, False, True]


def test_table_of_images_has_names_and_the_probability_of_the_label() -> None:
    classes, top = np.array([[0, 1], [0, 1], [2, 1]]), np.array([[0.7, 0.2], [0.6, 0.3], [0.5, 0.4]])
    found = make_predictions(np.array([0, 1, 0]), classes, top, {}, 3, 2)
    table = replace(found, class_names=("cat", "dog", "cow")).frame()
    assert table.index.tolist() == found.indices.tolist() == [0, 1, 2]
    assert table.label.tolist() == ["cat", "dog", "cat"]
    assert table.predicted.tolist() == ["cat", "cat", "cow"]
    assert table.correct.tolist() == [True, False, False]
    assert table.probability.tolist() == [0.7, 0.6, 0.5]
    assert table.label_probability.tolist()[:2] == [0.7, 0.3]
    assert np.isnan(table.label_probability[2])
    assert found.frame().predicted.tolist() == [0, 0, 2]


def test_bins_hold_borders_below_and_what_is_no_number_counts_as_nought() -> None:
    top = np.array([[1 / 15, 0.01], [1 / 15 + 1e-9, 0.01], [1.0, 0.0], [np.nan, np.nan]])
    classes = np.array([[0, 1]] * 4)
    found = make_predictions(
        np.array([0, 0, 0, 0]), classes, top, {"secondary_mass": np.array([0, 0.05, 1, np.nan])}, 2, 2
    )
    assert found.reliability.count.tolist() == [2, 1, *[0] * 12, 1]
    assert found.histograms["secondary_mass"].tolist() == [1, 1, *[0] * 17, 1]
    assert parse_predictions(predictions_text(found)).probabilities[3].tolist() == [0, 0]


@pytest.mark.parametrize("softness", [0.2, 0.5, 1.0])
def test_ten_thousand_images_of_a_hundred_classes_are_small(softness: float) -> None:
    assert len(predictions_text(predicted(10_000, 100, softness))) < MOST_BYTES


def test_text_has_nothing_that_unpacking_would_take_for_a_version() -> None:
    assert "/" not in predictions_text(predicted(2000, 100))


def test_predictions_are_read_with_the_version_alone(
    registry: Any, model: LoadedModel, open_run: Callable[..., Any], add_version: Callable[..., Version]
) -> None:
    run = open_run()
    model_id = log_model(replace(model, predictions=TEXT), "with", run.run_id, {})
    version = add_version()
    with pytest.raises(NotFoundError, match=f"^{version.uri} must have predictions.json .*, but has none"):
        predictions_in(fetch_files(version.model_id, (PREDICTIONS_FILE,)), version.uri)
    with_file = replace(version, model_id=model_id)
    found = predictions_in(fetch_files(model_id, (PREDICTIONS_FILE,)), version.uri)
    assert predictions_text(found) == TEXT
    with pytest.raises(AlteredFilesError, match="the recipe, the predictions or the environment"):
        load_version(with_file)  # it has the digest of files without predictions
    assert load_version(replace(with_file, files_sha256="")).predictions == ""


FIELDS = json.loads(TEXT)
VALUES = st.none() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.just([1] * 20)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(sorted(FIELDS)), VALUES, st.sampled_from(["", "count", "secondary_mass"]))
def test_altered_file_is_read_or_told(field: str, value: Any, part: str) -> None:
    tree = FIELDS | {field: FIELDS[field] | {part: value} if isinstance(FIELDS[field], dict) else value}
    try:
        parse_predictions(json.dumps(tree))
    except LineageError as error:
        assert str(error).startswith((PREDICTIONS_FILE, f"The format of {PREDICTIONS_FILE}"))
        assert "\n" not in str(error)
        assert str(error).endswith(".")


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.integers(0, len(TEXT) - 1), st.characters(max_codepoint=127))
def test_any_character_may_change(place: int, character: str) -> None:
    try:
        parse_predictions(TEXT[:place] + character + TEXT[place + 1 :])
    except IntegrityError as error:
        assert str(error).startswith(PREDICTIONS_FILE)


def _encoded(values: list[list[int]], kind: str) -> str:
    import base64
    import zlib

    columns = np.array(values).T.astype(kind).tobytes()
    assert kind == "u1"
    return base64.urlsafe_b64encode(zlib.compress(columns)).decode()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "at most 1, but is 2"),
        ({"images": 39}, "'labels': it must hold 39 bytes"),
        ({"images": 10**12}, "'images'"),
        ({"num_classes": 6}, "'labels': a class must be below 6, but is 6"),
        ({"classes": _encoded([[3] * 5] * 40, "u1")}, "'classes': the classes of an image must differ"),
        ({"labels": "not base64!"}, "'labels'"),
        ({"labels": _encoded([[0] * 10**6] * 40, "u1")}, "'labels': it must hold 40 bytes"),
        ({"reliability": {"count": [0] * 15, "confidence": [0] * 15, "correct": [0] * 15}}, "hold 40 images"),
        ({"histograms": {"hue": [0] * 20}}, "'hue' must be one of top_probability"),
        ({"histograms": {"secondary_mass": [9] * 20}}, "of at most 40 images"),
    ],
)
def test_field_that_cannot_hold_is_told(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(IntegrityError, match=problem):
        parse_predictions(json.dumps(FIELDS | change))
