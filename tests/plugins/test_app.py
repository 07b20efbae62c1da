import gzip
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from mlflow import MlflowClient
from playwright.sync_api import Page, expect

from lineage.display.page.render import module_names, page_asset
from lineage.display.page_data import family_html
from lineage.registry.family.lookup import read_family
from lineage.registry.store.reports import log_report

HOSTILE = "<img src=x onerror=alert(1)>"
DATA = "/ajax-api/3.0/lineage"


def card(page: Page, version: int) -> Any:
    """The node of a version of digits."""
    return page.locator(f'.node[data-id="digits/{version}"]')


def look(page: Page, site: str, place: str = "#/digits") -> Page:
    page.goto(f"{site}/lineage{place}")
    return page


def in_panel(page: Page) -> Any:
    return page.locator("#panel")


def test_list_shows_every_family(page: Page, site: str) -> None:
    look(page, site, "")
    families = page.locator(".family")
    expect(families).to_have_count(2)
    digits = families.filter(has=page.get_by_role("heading", name="digits", exact=True))
    expect(digits).to_contain_text("95.00 %")
    expect(digits).to_contain_text("@best")
    expect(digits).to_contain_text("1 in training")
    digits.click()
    expect(card(page, 3)).to_be_visible()
    assert page.url.endswith("/lineage#/digits")


def test_tree_shows_versions_from_left_to_right(page: Page, site: str) -> None:
    look(page, site)
    expect(card(page, 1)).to_contain_text("90.00 %")
    expect(card(page, 2)).to_contain_text("+2.00")
    expect(card(page, 4)).to_contain_text("−1.00")
    expect(card(page, 3)).to_contain_text("champion")
    across = [card(page, version).bounding_box()["x"] for version in (1, 2, 3, 5)]
    assert across == sorted(set(across))
    assert card(page, 3).bounding_box()["y"] < card(page, 4).bounding_box()["y"]
    expect(page.locator("#edges .edge.member")).to_have_count(3)
    expect(page.locator("#count")).to_have_text("5 versions, 1 in training")


def test_tree_shows_what_was_removed_and_what_grows(page: Page, site: str) -> None:
    look(page, site)
    expect(page.locator(".node.removed")).to_contain_text("v6")
    growing = page.locator(".node.growing")
    expect(growing).to_contain_text("epoch 3 of 8")
    share = float(growing.locator(".done").get_attribute("width")) / float(
        growing.locator(".bar").get_attribute("width")
    )
    assert share == pytest.approx(3 / 8)


def test_hover_marks_the_path_to_the_patriarch(page: Page, site: str) -> None:
    look(page, site)
    card(page, 4).hover()
    expect(page.locator(".node.onpath")).to_have_count(3)
    expect(page.locator("#edges .path")).to_have_count(2)
    expect(card(page, 3)).to_have_class("node generation dimmed")
    page.mouse.move(5, 5)
    expect(page.locator(".dimmed")).to_have_count(0)


def test_click_opens_a_panel_that_tells_all(page: Page, site: str) -> None:
    look(page, site)
    card(page, 4).click()
    panel = in_panel(page)
    expect(panel).to_contain_text("models:/digits/4")
    expect(panel.locator(".chart")).to_have_count(2)
    expect(panel).to_contain_text("Differs from its teacher v2")
    row = panel.locator("table.settings").first.locator("tbody tr")
    expect(row).to_have_count(1)
    assert row.locator("th, td").all_text_contents() == ["training.lr", "0.1", "0.05"]
    expect(panel).to_contain_text("lineage grow --from models:/digits/4")
    assert page.url.endswith("#/digits/4")
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()


def test_links_lead_to_the_stock_pages(page: Page, site: str) -> None:
    look(page, site, "#/digits/3")
    link = in_panel(page).get_by_role("link", name="Version")
    expect(link).to_have_attribute("href", "./#/models/digits/versions/3")
    link.click()
    expect(page.get_by_text("Version 3").first).to_be_visible(timeout=20_000)


@pytest.mark.parametrize(
    ("place", "link", "target"),
    [
        ("digits", "the family's tree", "/lineage#/digits"),
        ("digits/versions/3", "digits/2", "/#/models/digits/versions/2"),
        ("digits/versions/2", "digits/3", "/#/models/digits/versions/3"),
    ],
    ids=["model to family", "student to teacher", "teacher to student"],
)
def test_stock_pages_link_the_family(page: Page, site: str, place: str, link: str, target: str) -> None:
    page.goto(f"{site}/#/models/{place}")
    found = page.get_by_role("link", name=link, exact=True)
    expect(found).to_be_visible(timeout=20_000)
    assert found.evaluate("link => link.href") == site + target


def test_commands_are_copied(page: Page, site: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    look(page, site, "#/digits/3")
    in_panel(page).get_by_role("button", name="Copy").first.click()
    expect(in_panel(page).get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "lineage grow --from models:/digits/3"


def test_two_versions_are_compared(page: Page, site: str) -> None:
    look(page, site)
    card(page, 3).click()
    card(page, 4).click(modifiers=["Shift"])
    panel = in_panel(page)
    expect(panel).to_contain_text("Their nearest common ancestor is v2.")
    row = panel.locator("tr", has=page.get_by_text("test accuracy", exact=True))
    assert row.locator("td").all_text_contents() == ["95.00 %", "91.00 %", "−4.00"]
    expect(panel.locator("table.settings")).to_contain_text("training.lr")
    assert page.url.endswith("#/digits/3/4")


def test_two_versions_are_compared_without_a_keyboard(page: Page, site: str) -> None:
    look(page, site, "#/digits/3")
    in_panel(page).get_by_role("button", name="Compare with").click()
    card(page, 2).click()
    expect(in_panel(page)).to_contain_text("v3 descends from v2.")


def test_deep_link_opens_a_version(page: Page, site: str) -> None:
    look(page, site, "#/digits/5")
    expect(in_panel(page)).to_contain_text("ensemble of 3")
    expect(card(page, 5)).to_have_class("node ensemble onpath selected focus")
    expect(page.locator(".node.onpath")).to_have_count(4)


def test_search_finds_by_alias_seed_and_number(page: Page, site: str) -> None:
    look(page, site)
    box = page.get_by_label("Search")
    for words, found in (("@champion", 1), ("seed 7", 1), ("v2", 1), ("gen 2 seed 0", 2), ("nothing", 0)):
        box.fill(words)
        expect(page.locator("#matches")).to_have_text(f"{found} of 7")
    box.fill("@champion")
    box.press("Enter")
    expect(card(page, 3)).to_have_class("node generation focus")
    expect(card(page, 1)).to_have_class("node generation dimmed")
    box.press("Escape")
    expect(page.locator(".dimmed")).to_have_count(0)


def test_list_is_searched_too(page: Page, site: str) -> None:
    look(page, site, "")
    page.get_by_label("Search").fill("dig")
    expect(page.locator(".family")).to_have_count(1)
    expect(page.locator("#count")).to_have_text("1 of 2 families")


def test_keyboard_reaches_everything(page: Page, site: str) -> None:
    look(page, site)
    expect(card(page, 1)).to_be_visible()
    page.locator("#canvas").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(card(page, 4)).to_have_class("node generation focus")
    active = page.locator("#canvas").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("data-id") == "digits/4"
    page.keyboard.press("Enter")
    expect(in_panel(page)).to_contain_text("models:/digits/4")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    expect(in_panel(page)).to_contain_text("v4 and v2")
    page.keyboard.press("Escape")
    expect(in_panel(page)).to_be_hidden()
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()


def test_subtree_collapses_and_opens(page: Page, site: str) -> None:
    look(page, site)
    card(page, 2).locator(".toggle").click()
    expect(card(page, 3)).to_have_count(0)
    expect(card(page, 2)).to_contain_text("+4")
    assert card(page, 2).get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowRight")
    page.goto(f"{site}/lineage#/digits/3")  # a link into it opens it again
    expect(card(page, 3)).to_be_visible()


def test_zoom_keeps_the_place_and_fit_comes_back(page: Page, site: str) -> None:
    look(page, site)
    before = card(page, 2).bounding_box()
    page.mouse.move(before["x"] + 10, before["y"] + 10)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    grown = card(page, 2).bounding_box()
    assert grown["width"] > before["width"]
    assert abs(grown["x"] - before["x"]) < 12
    page.mouse.move(400, 600)
    page.mouse.down()
    page.mouse.move(500, 650)
    page.mouse.up()
    assert card(page, 2).bounding_box()["x"] == pytest.approx(grown["x"] + 100, abs=2)
    page.get_by_role("button", name="Fit").click()
    assert card(page, 2).bounding_box()["x"] == pytest.approx(before["x"], abs=2)


def test_colour_follows_the_metric_that_is_picked(page: Page, site: str) -> None:
    look(page, site)
    swatch = card(page, 3).locator("rect[fill]")
    expect(page.locator("#low")).to_have_text("89.00 %")
    page.get_by_label("colour").select_option("test_calibration_error")
    expect(page.locator("#low")).to_have_text("11.00 %")  # worse stands left: more is worse
    expect(page.locator("#high")).to_have_text("3.00 %")
    expect(card(page, 3)).to_contain_text("5.00 %")
    assert swatch.get_attribute("fill").startswith("rgb(")


def test_what_users_typed_is_text(page: Page, site: str) -> None:
    page.on("dialog", lambda _dialog: pytest.fail("something that a user typed ran"))
    look(page, site, "")
    page.get_by_role("heading", name=HOSTILE).click()
    expect(page.locator(".node")).to_have_count(1)
    page.locator(".node").click()
    expect(in_panel(page)).to_contain_text(HOSTILE)
    assert page.locator("img").count() == 0


def test_one_file_shows_the_same_without_a_server(
    page: Page, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    file = tmp_path / "tree.html"
    file.write_text(family_html(read_family("digits")), encoding="utf-8")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    expect(card(page, 3)).to_contain_text("95.00 %")
    card(page, 4).click()
    expect(in_panel(page)).to_contain_text("Differs from its teacher v2")
    expect(in_panel(page).locator("table.settings").first).to_contain_text("0.05")
    assert asked == [file.as_uri(), "data:,"] or asked == [file.as_uri()]


def test_page_is_usable_at_400_pixels_and_in_the_dark(page: Page, site: str) -> None:
    page.set_viewport_size({"width": 400, "height": 780})
    page.emulate_media(color_scheme="dark")
    look(page, site, "#/digits/2")
    expect(in_panel(page)).to_be_visible()
    node, sheet = card(page, 2).bounding_box(), in_panel(page).bounding_box()
    assert node["y"] + node["height"] < sheet["y"]
    assert 0 <= node["x"] < 400
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_page_follows_what_grows(page: Page, site: str, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    look(page, site)
    expect(page.locator(".node.growing")).to_contain_text("epoch 3 of 8")
    client = MlflowClient(store.uri)
    try:
        client.set_tag(store.growing, "lineage.epoch", "6")
        expect(page.locator(".node.growing")).to_contain_text("epoch 6 of 8", timeout=15_000)
        client.set_registered_model_alias("digits", "fresh", "4")
        expect(card(page, 4)).to_contain_text("fresh", timeout=15_000)
    finally:
        client.set_tag(store.growing, "lineage.epoch", "3")
        client.delete_registered_model_alias("digits", "fresh")


def test_images_of_a_version_from_before_there_were_predictions_are_missed(page: Page, site: str) -> None:
    look(page, site, "#/digits/3/images")
    dialog = page.get_by_role("dialog", name="Test images of models:/digits/3")
    expect(dialog).to_contain_text("models:/digits/3 must have predictions.json to tell what it predicted")
    dialog.get_by_role("button", name="Close images").click()
    expect(dialog).to_be_hidden()
    assert page.url.endswith("#/digits/3")


def test_page_links_a_report_once_there_is_one(
    page: Page, site: str, store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    look(page, site)
    expect(card(page, 3)).to_be_visible()
    expect(page.locator("#report")).to_be_hidden()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    (tmp_path / "report.html").write_text("drawn")
    run_id = log_report("digits", ("digits",), [tmp_path / "report.html"])
    try:
        expect(page.locator("#report")).to_be_visible(timeout=15_000)
        target = page.locator("#report").get_attribute("href") or ""
        assert target.endswith(f"/runs/{run_id}/artifacts/report/report.html")
    finally:
        MlflowClient(store.uri).delete_run(run_id)


def test_family_that_is_not_there_says_what_to_do(page: Page, site: str) -> None:
    look(page, site, "#/nobody")
    message = page.get_by_role("alert")
    expect(message).to_contain_text("No such family")
    expect(message).to_contain_text("holds no family 'nobody'")


def test_model_that_holds_no_generation_says_what_to_do(page: Page, site: str, store: Any) -> None:
    client = MlflowClient(store.uri)
    client.create_registered_model("of others")
    try:
        look(page, site, "#/of%20others")
        expect(page.get_by_role("alert")).to_contain_text("lineage grow digits --name 'of others'")
    finally:
        client.delete_registered_model("of others")


@pytest.mark.parametrize("name", ["100%", "%", "%E0%A4%A"])
def test_address_that_is_no_encoding_is_taken_as_it_is(page: Page, site: str, name: str) -> None:
    look(page, site, f"#/{name}")
    expect(page.get_by_role("alert")).to_contain_text(f"holds no family '{name}'")


def test_address_keeps_what_is_in_training(page: Page, site: str) -> None:
    look(page, site)
    page.locator(".node.growing").click()
    expect(in_panel(page)).to_contain_text("is in training")
    page.reload()
    expect(in_panel(page)).to_contain_text("is in training")


def change_document(page: Page, change: Callable[[dict[str, Any]], None]) -> None:
    """Have the page ask for news, and get the family with a change."""

    def answer(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        change(body["family"])
        route.fulfill(response=response, json=body)

    page.route("**/ajax-api/3.0/lineage/family?*", answer)
    page.route(
        "**/ajax-api/3.0/lineage/growing?*", lambda route: route.fulfill(json={"token": "", "growing": []})
    )
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def remove_version(number: int) -> Callable[[dict[str, Any]], None]:
    def change(family: dict[str, Any]) -> None:
        family["nodes"] = [node for node in family["nodes"] if node["id"] != f"digits/{number}"]

    return change


def test_panel_closes_when_its_version_is_gone(page: Page, site: str) -> None:
    look(page, site, "#/digits/4")
    expect(in_panel(page)).to_contain_text("models:/digits/4")
    change_document(page, remove_version(4))
    expect(card(page, 4)).to_have_count(0)
    expect(in_panel(page)).to_be_hidden()
    assert page.url.endswith("#/digits")


def test_panel_shows_the_other_version_when_one_of_two_is_gone(page: Page, site: str) -> None:
    look(page, site, "#/digits/4/3")
    expect(in_panel(page)).to_contain_text("v4 and v3")
    change_document(page, remove_version(4))
    expect(in_panel(page).locator("h2")).to_have_text("models:/digits/3")
    assert page.url.endswith("#/digits/3")


def test_panel_follows_its_version(page: Page, site: str) -> None:
    def change(family: dict[str, Any]) -> None:
        (node,) = (node for node in family["nodes"] if node["id"] == "digits/4")
        node["aliases"] = ["renamed"]

    look(page, site, "#/digits/4")
    expect(in_panel(page)).to_contain_text("models:/digits/4")
    change_document(page, change)
    expect(in_panel(page)).to_contain_text("@renamed")


def test_count_comes_back_when_the_server_does(page: Page, site: str) -> None:
    look(page, site)
    expect(page.locator("#count")).to_have_text("5 versions, 1 in training")
    page.route("**/ajax-api/3.0/lineage/growing?*", lambda route: route.abort())
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#count")).to_contain_text("The server does not answer")
    page.unroute_all()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#count")).to_have_text("5 versions, 1 in training")


def test_answer_that_is_not_json_is_named(page: Page, site: str) -> None:
    page.route("**/ajax-api/3.0/lineage/family?*", lambda route: route.fulfill(body="<html>", status=200))
    look(page, site)
    expect(page.get_by_role("alert")).to_contain_text(
        "The server's answer (status 200) is not one of lineage"
    )


def test_server_that_is_gone_says_what_to_do(page: Page, site: str) -> None:
    look(page, site)
    expect(card(page, 3)).to_be_visible()
    page.route("**/ajax-api/3.0/lineage/families", lambda route: route.abort())
    page.get_by_role("link", name="All families").click()
    expect(page.get_by_role("alert")).to_contain_text(
        "The server does not answer. Start it with 'lineage ui'"
    )
    page.unroute_all()
    page.context.clear_cookies()


def test_nothing_can_be_written(site: str) -> None:
    for path in ("/lineage", *(f"{DATA}/{what}?name=digits" for what in ("family", "families", "growing"))):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = requests.request(method, site + path, timeout=30)
            assert answer.status_code == 405, (method, path)


def test_policy_is_strict(site: str) -> None:
    for path in ("/lineage", "/lineage/main.js", f"{DATA}/families"):
        policy = requests.get(site + path, timeout=30).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy


def test_foreign_host_is_refused(site: str) -> None:
    for path in ("/lineage", f"{DATA}/families"):
        answer = requests.get(site + path, headers={"Host": "evil.example"}, timeout=30)
        assert answer.status_code == 403


def test_foreign_origin_may_not_read(site: str) -> None:
    answer = requests.get(f"{site}{DATA}/families", headers={"Origin": "https://evil.example"}, timeout=30)
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_answers_say_what_is_wrong(site: str, store: Any) -> None:
    client = MlflowClient(store.uri)
    client.create_registered_model("altered")
    client.create_model_version("altered", "s3://nowhere/model", tags={"lineage.schema": "1"})
    for path, status, text in (
        ("family", 400, "must have the parameter 'name'"),
        ("settings?name=digits&version=x", 400, "must be a number"),
        ("settings?name=digits&version=99", 404, "The family 'digits' has no version 99."),
        (f"family?name={quote('no/name')}", 404, "holds no family 'no/name'"),
        ("family?name=altered", 503, "The registry cannot be read; the server's log says why."),
    ):
        answer = requests.get(f"{site}{DATA}/{path}", timeout=30)
        assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text


def test_answers_are_packed_where_the_client_unpacks(site: str) -> None:
    address = f"{site}{DATA}/family?name=digits"
    packed = requests.get(address, stream=True, headers={"Accept-Encoding": "gzip"}, timeout=30)
    plain = requests.get(address, headers={"Accept-Encoding": "identity"}, timeout=30)
    assert json.loads(gzip.decompress(packed.raw.read())) == plain.json()
    assert "Content-Encoding" not in plain.headers


@pytest.mark.parametrize("name", ["main.js", "family.js", "page.css"])
def test_file_that_a_browser_has_is_not_sent_again(site: str, name: str) -> None:
    address = f"{site}/lineage/{name}"
    first = requests.get(address, timeout=30)
    again = requests.get(address, headers={"If-None-Match": first.headers["ETag"]}, timeout=30)
    assert (again.status_code, again.content) == (304, b"")


def test_files_have_their_types_and_template_is_not_served(site: str) -> None:
    for name, media_type in (
        ("page.css", "text/css"),
        *((name, "text/javascript") for name in module_names()),
    ):
        answer = requests.get(f"{site}/lineage/{name}", timeout=30)
        assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert answer.text == page_asset(name)
    assert requests.get(f"{site}/lineage/page.html.jinja", timeout=30).status_code == 404


@pytest.mark.slow
def test_ten_thousand_versions_open_and_stay_smooth(
    page: Page,
    store: Any,
    tmp_path: Any,
    multiply: Callable[[str, str, int], None],
    serve_families: Callable[..., Any],
) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(store.uri.removeprefix("sqlite:///"), database)
    with closing(sqlite3.connect(database)) as connection, connection:
        for table in ("model_version_tags", "registered_model_aliases", "model_versions"):
            connection.execute(f"DELETE FROM {table} WHERE name = 'digits' AND version > 2")
    multiply(f"sqlite:///{database}", "digits", 10_000)
    with serve_families(f"sqlite:///{database}", tmp_path) as site:
        requests.get(f"{site}{DATA}/families", timeout=60)  # the server has its imports
        seconds = []
        for _ in range(2):
            page.goto("about:blank")
            look(page, site)
            expect(card(page, 1)).to_be_visible(timeout=60_000)
            seconds.append(page.evaluate("performance.now()") / 1000)  # since the page was asked for
        cold, kept = seconds
        assert cold <= 8
        assert kept <= 2
        expect(page.locator("#count")).to_contain_text("10,000 versions")
        assert page.locator(".node").count() < 400
        page.locator(".fold").last.click()
        steps = page.evaluate(
            """async () => {
                const canvas = document.getElementById("canvas");
                const frame = () => new Promise(requestAnimationFrame);
                const steps = [];
                for (let step = 0; step < 60; step += 1) {
                    const begin = performance.now();
                    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 400, cancelable: true }));
                    steps.push(performance.now() - begin);
                    await frame();
                }
                return steps;
            }"""
        )
        assert sorted(steps)[-4] < 50  # milliseconds: of sixty steps all but three
        assert page.locator(".node").count() < 400
