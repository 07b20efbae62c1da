"""What the image view is given: predictions of a version and its teacher, or sentences on what is missing."""

import json

import numpy as np
import pytest
from records import DATA, NAMES, Files, small_predictions

from lineage.display import image_data
from lineage.display.image_data import image_document
from lineage.registry.family.family import Version
from lineage.registry.store.predictions_file import make_predictions

STUDENT = Version("fruit", 2, generation=1, teacher="other/7", model_id="m-2", teacher_model_id="m-7")
OWN, TEACHERS = small_predictions(2), small_predictions(7)


@pytest.fixture
def files() -> Files:
    kept = Files()
    kept.put("m-2", OWN)
    kept.put("m-7", TEACHERS)
    return kept


def test_both_networks_are_told_for_every_image(files: Files) -> None:
    found = image_document(STUDENT, files)
    assert (found["notes"], found["classes"], found["top"]) == ([], list(NAMES), 5)
    assert (found["rows"], found["labels"]) == (list(range(120)), OWN.labels.tolist())
    for network, name, predicted in zip(
        found["networks"], ("fruit/2", "other/7"), (OWN, TEACHERS), strict=True
    ):
        assert network["id"] == name
        assert network["classes"] == predicted.classes.ravel().tolist()
        np.testing.assert_allclose(network["probabilities"], predicted.probabilities.ravel(), atol=6e-5)
    json.dumps(found)


def test_rows_may_be_chosen(files: Files) -> None:
    found = image_document(STUDENT, files, rows=[7, 3])
    assert (found["rows"], found["labels"]) == ([7, 3], OWN.labels[[7, 3]].tolist())
    assert found["networks"][1]["classes"] == TEACHERS.classes[[7, 3]].ravel().tolist()


def test_no_more_images_than_a_page_can_hold(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_data, "MOST_IMAGES", 50)
    found = image_document(STUDENT, files)
    assert len(found["labels"]) == 50
    assert found["notes"] == ["Only the first 50 of 120 images are shown."]


def test_patriarch_stands_alone(files: Files) -> None:
    found = image_document(Version("fruit", 2, model_id="m-2"), files)
    assert [network["id"] for network in found["networks"]] == ["fruit/2"]
    assert found["notes"] == []


@pytest.mark.parametrize(
    ("model", "change", "text"),
    [
        ("m-2", {"predictions.json": None}, "models:/fruit/2 must have predictions.json"),
        ("m-2", {"predictions.json": b"{"}, "predictions.json of models:/fruit/2 must be what lineage wrote"),
        ("m-2", {"lineage.json": b"[]"}, "lineage.json of models:/fruit/2 must be what lineage wrote"),
        (
            "m-2",
            {"lineage.json": None},
            "models:/fruit/2 must name as many classes as it predicts, but names 0",
        ),
        ("m-7", {"predictions.json": None}, "Its teacher is not shown. models:/other/7 must have"),
        (
            "m-7",
            {"predictions.json": b"\xff"},
            "Its teacher is not shown. predictions.json of models:/other/7",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_one_sentence(
    files: Files, model: str, change: dict[str, bytes | None], text: str
) -> None:
    kept = files.models[model] | change
    files.models[model] = {name: content for name, content in kept.items() if content is not None}
    found = image_document(STUDENT, files)
    (note,) = found["notes"]
    assert note.startswith(text)
    assert "\n" not in note
    assert len(found["networks"]) == (1 if model == "m-7" else 0)


def test_teacher_that_was_measured_on_other_images_is_not_shown(files: Files) -> None:
    labels = np.roll(TEACHERS.labels, 1)
    rolled = make_predictions(labels, TEACHERS.classes, TEACHERS.probabilities, {}, len(NAMES), 5)
    for predicted, digest in ((rolled, DATA.digest), (TEACHERS, "e" * 64)):
        files.put("m-7", predicted, digest=digest)
        found = image_document(STUDENT, files)
        assert len(found["networks"]) == 1
        assert found["notes"] == [
            "Its teacher other/7 is not shown: it was measured on other images, or on images of another size."
        ]


def test_version_that_names_other_classes_is_not_shown(files: Files) -> None:
    files.put("m-2", OWN, class_names=NAMES[:4], superclasses=None)
    (note,) = image_document(STUDENT, files)["notes"]
    assert note.startswith(
        "models:/fruit/2 must name as many classes as it predicts, but names 4 and predicts 6"
    )
