"""Test images in a page that is one file are those that tell its versions apart."""

import numpy as np
from records import DATA, DIGEST, NAMES, Files, small_predictions

from lineage.data.datasets import load_dataset
from lineage.evaluation.page_images import page_images
from lineage.registry.family.family import Family, Version
from lineage.registry.store.predictions_file import make_predictions


def family(*models: str) -> Family:
    """Versions of these logged models, each the student of the one before."""
    versions = [Version("fruit", 1, model_id=models[0])]
    for number, model in enumerate(models[1:], 2):
        teacher = {"teacher": f"fruit/{number - 1}", "teacher_model_id": models[number - 2]}
        versions.append(Version("fruit", number, generation=number - 1, model_id=model, **teacher))  # type: ignore[arg-type]
    return Family("fruit", tuple(versions))


def test_images_that_tell_versions_apart_are_chosen_for_all() -> None:
    files = Files()
    several = [small_predictions(seed) for seed in range(4)]
    for number, predicted in enumerate(several):
        files.put(f"m-{number}", predicted)
    found = page_images(family("m-0", "m-1", "m-2", "m-3"), 12, files)
    right = np.mean([one.classes[:, 0] == one.labels for one in several], axis=0)
    rows = found["images"]["fruit/1"]["rows"]
    assert len(rows) == 12
    assert {abs(right[row] - 0.5) for row in rows} == {abs(right - 0.5).min()}
    for number, predicted in enumerate(several, 1):
        document = found["images"][f"fruit/{number}"]
        assert document["rows"] == rows
        assert document["networks"][0]["classes"] == predicted.classes[rows].ravel().tolist()
        assert len(document["networks"]) == min(number, 2)
    assert found["pictures"][DIGEST]["note"].startswith("The pictures were not at hand where")
    assert found["pictures"][DIGEST]["addresses"] == {}


def test_pictures_are_those_of_the_rows() -> None:
    files, digits = Files(), load_dataset("digits")
    labels = digits.test.labels.numpy()
    classes = (labels[:, None] + np.arange(5)) % 10
    predicted = make_predictions(labels, classes, np.full(classes.shape, 0.2), {}, 10, 5)
    spec = digits.spec
    described = {"name": "digits", "class_names": spec.class_names, "superclasses": None}
    files.put("m-1", predicted, input_shape=spec.input_shape, digest=spec.digest, **described)
    found = page_images(family("m-1"), 5, files)
    pictures = found["pictures"][spec.digest]
    assert (list(pictures["addresses"]), pictures["note"]) == ([0, 1, 2, 3, 4], "")
    assert all(one.startswith("data:image/png;base64,") for one in pictures["addresses"].values())


def test_version_without_predictions_says_so_among_others() -> None:
    files = Files()
    files.put("m-1", small_predictions(1))
    found = page_images(family("m-1", "m-2"), 500, files)
    assert len(found["images"]["fruit/1"]["rows"]) == 120  # no more than there are
    assert found["images"]["fruit/2"]["networks"] == []
    assert found["images"]["fruit/2"]["notes"][0].startswith("models:/fruit/2 must have predictions.json")


def test_images_of_other_lengths_are_not_mixed() -> None:
    files = Files()
    files.put("m-1", small_predictions(1))
    files.put("m-2", small_predictions(2, num_images=30), digest=DATA.digest)
    found = page_images(family("m-1", "m-2"), 40, files)
    assert max(found["images"]["fruit/2"]["rows"]) == 29
    assert len(NAMES) == len(found["images"]["fruit/1"]["classes"])


def test_only_the_newest_versions_are_read() -> None:
    files = Files()
    files.put("m-0", small_predictions(0))
    found = page_images(family(*["m-0"] * 103), 1, files)
    assert list(found["images"]) == [f"fruit/{number}" for number in range(4, 104)]
