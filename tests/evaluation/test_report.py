"""A report is drawn from texts without a store; its page needs nothing else."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from records import small_record

import lineage
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.evaluation.report import choose_lines
from lineage.registry.packing.record import record_text

FIGURES = {
    "accuracy",
    "differences",
    "ensembles",
    "calibration",
    "reliability",
    "explanation",
    "teachers",
    "transfers",
    "images",
    "similarity",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lineage.Report]:
    """The report of two families that are texts, made where no store answers."""
    place = tmp_path_factory.mktemp("texts")
    for record in (small_record(), small_record("<b>other", gain=0.5)):
        file = place / f"{len(list(place.iterdir()))}.json"
        file.write_text(record_text(record), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        yield lineage.report([str(place / "0.json"), str(place / "1.json")], place / "report")


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_texts_give_every_figure_in_three_forms(drawn: lineage.Report) -> None:
    page, *figures = drawn.files
    assert page.name == "report.html"
    assert {file.name for file in figures} == {f"{name}.{end}" for name in FIGURES for end in ("png", "svg")}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in figures if file.suffix == ".png")
    for file in figures:
        if file.suffix == ".svg":
            assert ET.parse(file).getroot().tag.endswith("svg")
    assert (drawn.names, drawn.run_id) == (("fruit", "<b>other"), "")


def test_page_needs_nothing_else_and_runs_nothing(drawn: lineage.Report) -> None:
    text = drawn.files[0].read_text(encoding="utf-8")
    page = _Page(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("figure") == len(FIGURES)
    assert not {"script", "iframe", "object", "b", "img"} & set(tags)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'")
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("href", "src", "xlink:href") and value:
                assert value.startswith(("#", "data:")), value
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "g" and "id" in attributes]
    assert ids == []
    assert "&lt;b&gt;other" in text
    assert "The pictures are not at hand" in text  # nobody knows data called 'tiles'


def test_colours_of_the_page_are_those_of_light_or_dark(drawn: lineage.Report) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", drawn.files[0].read_text(encoding="utf-8"), re.DOTALL))
    assert "var(--ink)" in svg
    assert not re.search(r"(fill|stroke): #(1b2131|000000)", svg)


def test_lines_beyond_the_colours_are_left_out_and_counted() -> None:
    versions = {f"line {number}": [None] * (1 + number % 7) for number in range(9)}
    shown, (note,) = choose_lines(versions)  # type: ignore[arg-type]
    assert len(shown) == 6
    assert next(iter(shown)) == "line 0"  # the reference
    assert "line 7" not in shown
    assert note == "3 lines with fewer versions than those shown left out."


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    file = tmp_path / "fruit.json"
    file.write_text(record_text(small_record(seeds=1, generations=1)), encoding="utf-8")
    with pytest.raises(UsageError, match="'fruit' again"):
        lineage.report([str(file), str(file)], tmp_path / "out")
    with pytest.raises(NotFoundError, match=r"nothing\.json' is no file"):
        lineage.report([str(tmp_path / "nothing.json")])
    with pytest.raises(UsageError, match=r"training\.lr"):
        lineage.report([str(file)], tmp_path / "out", overrides=["training.lr=1"])
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"folder of a report must be writable, but '.*taken' is not"):
        lineage.report([str(file)], tmp_path / "taken")
    file.write_text(file.read_text().replace('"kind": "lineage-family"', '"kind": "other"'))
    with pytest.raises(IntegrityError, match="must be 'lineage-family'"):
        lineage.report([str(file)])


def test_similarity_of_too_many_classes_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fruit.json"
    file.write_text(record_text(small_record()), encoding="utf-8")
    monkeypatch.setattr("lineage.evaluation.report_class_sections._MOST_CLASSES", 1)
    page, *figures = lineage.report([str(file)], tmp_path / "out").files
    assert "Not drawn: the similarity of " in page.read_text(encoding="utf-8")
    assert "similarity.png" not in {figure.name for figure in figures}
