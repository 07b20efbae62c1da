"""The image view: a family of digits, grown on a server that keeps the files itself, in Chromium."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from lineage_mlflow.images import PictureReader
from PIL import Image
from playwright.sync_api import Page, expect

import lineage
from lineage.data.datasets import load_dataset
from lineage.display.page_data import family_html
from lineage.evaluation.data_index import remember_folder
from lineage.evaluation.page_images import page_images
from lineage.recipe import DataSettings
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_family

DATA = "/ajax-api/3.0/lineage"


@pytest.fixture(scope="module")
def digits(
    empty_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_settings: tuple[str, ...],
    serve_families: Callable[..., AbstractContextManager[str]],
) -> Iterator[str]:
    """The address of a server with a patriarch and a student of digits, whose files went through it."""
    folder = tmp_path_factory.mktemp("images")
    shutil.copy(empty_database, folder / "mlflow.db")
    with (
        serve_families(f"sqlite:///{folder / 'mlflow.db'}", folder) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.delenv("LINEAGE_HOME", raising=False)
        lineage.grow("digits", generations=1, overrides=tiny_settings)
        yield address


def ask(site: str, what: str, **parameters: Any) -> Any:
    return requests.get(f"{site}{DATA}/{what}", {"name": "digits", "version": "2", **parameters}, timeout=60)


@pytest.fixture(scope="module")
def predicted(digits: str) -> lineage.Predictions:
    """What the student predicted."""
    return lineage.predictions("models:/digits/2")


def test_answer_has_what_both_networks_predicted(digits: str, predicted: lineage.Predictions) -> None:
    found = ask(digits, "images").json()
    teacher = lineage.predictions("models:/digits/1")
    assert (found["notes"], found["classes"]) == ([], list("0123456789"))
    assert found["labels"] == predicted.labels.tolist()
    assert [network["id"] for network in found["networks"]] == ["digits/2", "digits/1"]
    for network, kept in zip(found["networks"], (predicted, teacher), strict=True):
        assert network["classes"] == kept.classes.ravel().tolist()
        np.testing.assert_allclose(network["probabilities"], kept.probabilities.ravel(), atol=6e-5)
    assert len(ask(digits, "images", version="1").json()["networks"]) == 1


def test_pictures_are_the_test_images_of_these_rows(digits: str) -> None:
    rows = [3, 300, 17]
    found = ask(digits, "pictures", rows=",".join(map(str, rows))).json()
    images = load_dataset("digits").test
    assert found["note"] == ""
    for row, address in zip(rows, found["pictures"], strict=True):
        kind, packed = address.split(",")
        assert kind == "data:image/png;base64"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(packed))))
        assert (pixels == images.pixels[row].numpy()).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("parameters", "status", "text"),
    [
        ({"rows": "1,x"}, 400, "at most 100 numbers"),
        ({"rows": "-1"}, 400, "at most 100 numbers"),
        ({"rows": ",".join(["1"] * 101)}, 400, "at most 100 numbers"),
        ({"rows": "360"}, 400, "must be below 360"),
        ({"rows": "1", "version": "9"}, 404, "no version 9"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    digits: str, parameters: dict[str, str], status: int, text: str
) -> None:
    answer = ask(digits, "pictures", **parameters)
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [("cifar10", "none is given"), ("hub:somebody/tiles", "must lie in a folder to be served")],
)
def test_pictures_that_this_machine_does_not_have_are_missed(
    home: Path, connection_attempts: list[object], caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    data = {"name": name, "class_names": ["a", "b"], "superclasses": None, "digest": "d" * 64}
    remember_folder("d" * 64, DataSettings(name=name))  # data of the Hub that this user has once fetched
    structure = json.dumps({"data": data | {"input_shape": [3, 8, 8]}})
    version, reader = Version("fruit", 1, model_id="m-1"), PictureReader()
    for _ in range(2):
        found = reader.pictures(version, [0], lambda *_: {"lineage.json": structure.encode()})
        assert found["pictures"] == []
        assert "not at hand on the machine that serves this page" in found["note"]
    assert connection_attempts == []
    (logged,) = (record.message for record in caplog.records)  # what was missed is not looked for again
    assert reason in logged


def test_images_are_searched_by_class_and_by_disagreement(
    page: Page, digits: str, predicted: lineage.Predictions
) -> None:
    teacher = lineage.predictions("models:/digits/1")
    own, before = (kept.classes[:, 0] for kept in (predicted, teacher))
    labels = predicted.labels
    page.goto(f"{digits}/lineage#/digits/2")
    page.locator("#panel").get_by_role("button", name="Images").click()
    dialog = page.get_by_role("dialog", name="Test images of models:/digits/2")
    place, choice = dialog.get_by_role("status"), dialog.get_by_label("Show")
    expect(place).to_have_text("1–48 of 360 images")
    expect(dialog.get_by_label("Search")).to_be_focused()
    for name, held in (
        ("disagrees with its teacher", own != before),
        ("right, its teacher wrong", (own == labels) & (before != labels)),
        ("wrong, its teacher right", (own != labels) & (before == labels)),
        ("both wrong", (own != labels) & (before != labels)),
    ):
        choice.select_option(f"{name} ({held.sum()})")
        expect(place).to_contain_text(f"{held.sum()} image")
    choice.select_option(f"all images ({len(labels)})")
    dialog.get_by_label("True class").select_option("3")
    dialog.get_by_label("Predicted class").select_option("3")
    expect(place).to_contain_text(f"of {((labels == 3) & (own == 3)).sum()} images")
    dialog.get_by_label("True class").select_option("any")
    dialog.get_by_label("Predicted class").select_option("any")
    dialog.get_by_label("Search").fill("7")
    named = (labels == 7) | (own == 7) | (before == 7)
    expect(place).to_contain_text(f"of {named.sum()} images")
    dialog.get_by_label("Search").fill("nothing")
    expect(dialog).to_contain_text("No image meets all of this.")


def test_cards_tell_images_with_both_networks_by_pages(
    page: Page, digits: str, predicted: lineage.Predictions
) -> None:
    page.goto(f"{digits}/lineage#/digits/2/images")
    cards = page.locator(".shot")
    expect(cards).to_have_count(48)
    expect(page.locator(".shot img")).to_have_count(48)
    assert page.locator(".shot img").first.evaluate("image => image.naturalWidth") == 8
    page.get_by_role("button", name="Next").click()
    card, row = cards.nth(2), 50
    expect(card).to_contain_text(f"image {row}")
    expect(card.get_by_role("img")).to_have_attribute("alt", f"image {row}")
    guesses = card.get_by_role("list", name="v2").get_by_role("listitem")
    expect(guesses).to_have_count(5)
    for place, (number, probability) in enumerate(
        zip(predicted.classes[row], predicted.probabilities[row].round(4), strict=True)
    ):
        is_truth = bool(number == predicted.labels[row])
        text = f"{'✓ ' * is_truth}{number}{100 * probability:.1f} %{'true class' * is_truth}"
        expect(guesses.nth(place)).to_have_text(text)
    expect(card.get_by_role("list", name="teacher v1")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.url.endswith("#/digits/2")
    expect(page.locator("#panel")).to_contain_text("models:/digits/2")  # Escape closes one thing at a time
    page.go_back()
    expect(cards).to_have_count(48)


def test_one_file_holds_images_that_it_was_given(page: Page, digits: str, tmp_path: Path) -> None:
    family = read_family("digits")
    plain, full = tmp_path / "plain.html", tmp_path / "full.html"
    plain.write_text(family_html(family), encoding="utf-8")
    full.write_text(family_html(family, page_images(family, 60)), encoding="utf-8")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{plain.as_uri()}#/digits/2/images")
    expect(page.get_by_role("dialog")).to_contain_text("This file holds no images of this version.")
    page.goto(f"{full.as_uri()}#/digits/2/images")
    expect(page.locator(".shot img")).to_have_count(48)
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".shot img")).to_have_count(12)
    assert page.locator(".shot img").last.evaluate("image => image.naturalWidth") == 8
    assert {address.split(":")[0] for address in asked} <= {"file", "data"}


def test_view_of_a_patriarch_fits_a_narrow_screen(page: Page, digits: str) -> None:
    page.set_viewport_size({"width": 400, "height": 780})
    page.goto(f"{digits}/lineage#/digits/1/images")
    expect(page.locator(".shot img").first).to_be_visible()
    expect(page.locator(".shot").first.get_by_role("list")).to_have_count(1)
    assert page.get_by_label("Show").locator("option").count() == 3
    assert page.evaluate("document.querySelector('#images').scrollWidth") <= 400
