"""The page's script in Chromium, on families of any shape in single files."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from records import DIGEST, NAMES, Files, small_predictions

from lineage.display.image_data import image_document
from lineage.display.page.render import join_modules, module_names, page_asset, single_file_page
from lineage.display.page_data import PageContext, family_document
from lineage.registry.family.family import Family, Version

# Counts the elements of all arrays that are looped over or spread: the work that the script does.
COUNT_STEPS = """
    globalThis.steps = 0;
    const iterate = Array.prototype[Symbol.iterator];
    Array.prototype[Symbol.iterator] = function () {
        globalThis.steps += this.length;
        return iterate.call(this);
    };
"""
CLASHES = """() => [...document.querySelectorAll(".chart svg")].flatMap((chart) => {
    const boxes = (kind) => [...chart.querySelectorAll(kind)].map((one) => one.getBoundingClientRect());
    const meet = (a, b) => a.left < b.right && a.right > b.left && a.top < b.bottom && a.bottom > b.top;
    const [labels, points, frame] = [boxes("text"), boxes("circle, path"), chart.getBoundingClientRect()];
    const isInside = (a) => a.left >= frame.left && a.right <= frame.right && a.top >= frame.top;
    return labels.flatMap((label, i) => [
        ...points.filter((point) => meet(label, point)).map(() => `label ${i} covers a point`),
        ...labels.slice(i + 1).filter((other) => meet(label, other)).map(() => `label ${i} covers a label`),
        ...(isInside(label) ? [] : [`label ${i} leaves the chart`]),
    ]);
})"""


def make_family(teachers: Sequence[int | None], **metrics: Sequence[float]) -> Family:
    """A family with one version for each entry: the number of its teacher, or None for a patriarch."""
    versions: list[Version] = []
    for number, teacher in enumerate(teachers, 1):
        generation = 0 if teacher is None else versions[teacher - 1].generation + 1
        versions.append(
            Version(
                name="digits",
                version=number,
                generation=generation,
                teacher=None if teacher is None else f"digits/{teacher}",
                objective="plain" if teacher is None else "student",
                metrics={name: values[number - 1] for name, values in metrics.items()},
                created=1,
            )
        )
    return Family("digits", tuple(versions))


@pytest.fixture
def show(page: Page, tmp_path: Path) -> Callable[..., Page]:
    """Opens a family at an address of its page."""
    numbers = itertools.count()

    def open_page(family: Family, address: str = "", context: PageContext | None = None) -> Page:
        file = tmp_path / f"{next(numbers)}.html"
        file.write_text(single_file_page(family_document(family, context), {}), encoding="utf-8")
        page.goto(file.as_uri() + address)
        expect(page.locator(".node").first).to_be_visible(timeout=30_000)
        return page

    return open_page


@pytest.mark.parametrize("button", ["right", "middle"])
def test_only_the_primary_button_picks_a_card(show: Callable[..., Page], button: Any) -> None:
    page = show(make_family([None, 1]))
    page.locator(".node").last.click(button=button)
    expect(page.locator("#panel")).to_be_hidden()
    page.locator(".node").last.click()
    expect(page.locator("#panel")).to_contain_text("models:/digits/2")


def test_drag_with_another_button_moves_nothing(show: Callable[..., Page]) -> None:
    page = show(make_family([None, 1]))
    before = page.locator(".node").first.bounding_box()
    page.mouse.move(600, 600)
    page.mouse.down(button="right")
    page.mouse.move(700, 640)
    page.mouse.up(button="right")
    assert page.locator(".node").first.bounding_box() == before


@pytest.mark.parametrize(
    "values",
    [
        (0.9, 0.8, 0.85),  # the first is the best
        (0.8, 0.79, 0.9, 0.78),
        (0.78, 0.781, 0.95),  # the first two are the worst
        (0.9, 0.9, 0.9),
        tuple(0.5 + 0.01 * (i % 3) for i in range(20)),
        (0.123456, 123456.7, -98765.4),
    ],
    ids=["falling", "mixed", "rising", "equal", "twenty", "long numbers"],
)
def test_labels_of_charts_cover_no_points(show: Callable[..., Page], values: tuple[float, ...]) -> None:
    metrics = {"test_accuracy": values, "test_cross_entropy": values, "images_per_second": values}
    family = make_family([None, *range(1, len(values))], **metrics)
    page = show(family, f"#/digits/{len(values)}")
    page.get_by_label("Colour by").select_option("images_per_second")
    expect(page.locator(".chart")).to_have_count(3)
    assert page.evaluate(CLASHES) == []


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_work_is_in_proportion_to_the_family(show: Callable[..., Page], page: Page, shape: str) -> None:
    page.add_init_script(COUNT_STEPS)

    def steps(size: int) -> int:
        teachers = [None, *(number if shape == "chain" else 1 for number in range(1, size))]
        show(make_family(teachers), f"#/digits/{size}")
        expect(page.locator("#panel")).to_contain_text(f"models:/digits/{size}")
        return int(page.evaluate("steps"))

    small, large = steps(1_000), steps(4_000)
    assert large < 6 * small


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_ten_thousand_versions_are_drawn(show: Callable[..., Page], shape: str) -> None:
    teachers = [None, *(number if shape == "chain" else 1 for number in range(1, 10_000))]
    page = show(make_family(teachers, test_accuracy=[0.5] * 10_000), "#/digits/10000")
    expect(page.locator("#panel")).to_contain_text("models:/digits/10000")
    expect(page.locator('.node[data-id="digits/10000"]')).to_be_visible()
    assert page.locator(".node").count() < 400


def test_address_of_a_version_in_another_family_is_not_that_of_an_own_one(show: Callable[..., Page]) -> None:
    family = make_family([None, 1])
    borrowed = replace(family.versions[1], version=3, teacher="other/1")
    page = show(Family("digits", (*family.versions, borrowed)))
    page.locator('.node[data-id="other/1"]').click()
    expect(page.locator("#panel")).to_contain_text("A version of another family.")
    page.reload()
    expect(page.locator("#panel")).to_contain_text("A version of another family.")
    expect(page.locator("#panel h2")).to_have_text("other/1")


def test_student_under_another_name_is_below_its_teacher(show: Callable[..., Page]) -> None:
    family = make_family([None, 1])
    elsewhere = replace(family.versions[1], name="small", version=1, teacher="digits/2")
    page = show(family, context=PageContext(elsewhere=[elsewhere]))
    page.locator('.node[data-id="small/1"]').click()
    expect(page.locator("#panel")).to_contain_text("A student that is registered under another name.")
    expect(page.get_by_role("link", name="Its family")).to_have_attribute("href", "#/small/1")


def test_names_of_classes_are_text(page: Page, tmp_path: Path) -> None:
    page.on("dialog", lambda _dialog: pytest.fail("the name of a class ran"))
    names = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", *NAMES[2:])
    files = Files()
    files.put("m-1", small_predictions(1), class_names=names)
    family = make_family([None])
    own = replace(family.versions[0], model_id="m-1")
    images = {
        "images": {own.id: image_document(own, files)},
        "pictures": {DIGEST: {"note": "", "addresses": {}}},
    }
    file = tmp_path / "page.html"
    file.write_text(single_file_page(family_document(family), {}, images), encoding="utf-8")
    page.goto(f"{file.as_uri()}#/digits/1/images")
    expect(page.locator(".shot").first).to_contain_text(names[0])
    page.get_by_role("dialog").get_by_label("Search").fill("</SCRIPT>")
    expect(page.locator(".shot").first).to_contain_text(names[1])
    expect(page.locator(".picture").first).to_have_text("cannot be decoded")
    assert page.locator("img").count() == 0


def test_modules_are_joined_after_what_they_import() -> None:
    modules = {
        "main.js": 'import { b } from "./b.js";\nimport {\n  a,\n  c,\n} from "./a.js";\nb(a, c);\n',
        "b.js": 'import { a } from "./a.js";\nexport function b() {\n  return a;\n}\n',
        "a.js": "export const a = 1;\nexport let c = 2;\n",
    }
    joined = "const a = 1;\nlet c = 2;\n\nfunction b() {\n  return a;\n}\n\nb(a, c);\n"
    assert join_modules(modules) == joined


@pytest.mark.parametrize(
    "line",
    [
        'import { a as b } from "./a.js";',
        'import * as a from "./a.js";',
        'import "./a.js";',
        'import { a } from "https://example.org/a.js";',
        "export default function () {}",
        "export { a };",
        'const a = await import("./a.js");',
        "const a = import.meta.url;",
        'const a = "</script>";',
    ],
)
def test_module_that_cannot_be_joined_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"main\.js has '"):
        join_modules({"main.js": f"{line}\n", "a.js": "export const a = 1;\n"})


def test_modules_are_short() -> None:
    for name in module_names():
        lines = page_asset(name).splitlines()
        assert len(lines) <= 300, name
        assert max(map(len, lines)) <= 110, name
