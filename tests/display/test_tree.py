import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from lineage.display.tree import dot, mermaid, rich_tree, tree_json
from lineage.registry.care.remove import Tombstone
from lineage.registry.family.family import Family, Member, Version

BASE = Version(
    name="digits",
    version=1,
    root="digits/1",
    objective="tolerant",
    recipe_digest="5eed",
    model_id="m-1",
    run_id="r-1",
)


def student(number: int, teacher: str, generation: int, accuracy: float | None = None) -> Version:
    metrics = {} if accuracy is None else {"test_accuracy": accuracy}
    return replace(
        BASE, version=number, teacher=teacher, generation=generation, objective="student", metrics=metrics
    )


def chain(length: int) -> Family:
    return Family(
        "digits",
        (BASE, *(student(number, f"digits/{number - 1}", number - 1) for number in range(2, length + 1))),
    )


@pytest.fixture
def family() -> Family:
    """Two students of one patriarch, a grandchild, and a student of another family."""
    patriarch = replace(BASE, metrics={"test_accuracy": 0.96, "ensemble_accuracy": 0.96})
    best = replace(student(3, "digits/2", 2, 0.975), aliases=("best", "latest-generation"))
    return Family(
        "digits",
        (
            patriarch,
            student(2, "digits/1", 1, 0.9722),
            best,
            replace(student(4, "digits/1", 1, 0.95), seed=7),
            student(5, "other/3", 4, 0.97),
        ),
    )


def drawn(family: Family, width: int = 200) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(rich_tree(family))
    return capture.get().splitlines()


def numbers(lines: list[str]) -> list[int]:
    return [int(found[1]) for line in lines if (found := re.search(r"[├└]─ v(\d+)", line))]


def test_tree_draws_students_below_their_teachers(family: Family) -> None:
    assert drawn(family) == [
        "digits  5 versions",
        "├─ v1  generation 0  96.00 %  ensemble 96.00 %  tolerant  seed 0",
        "│  ├─ v2  generation 1  97.22 %  +1.22  student  seed 0",
        "│  │  └─ v3  generation 2  97.50 %  +0.28  @best  @latest-generation  student  seed 0",
        "│  └─ v4  generation 1  95.00 %  -1.00  student  seed 7",
        "└─ v5  generation 4  97.00 %  student  seed 0  teacher other/3",
    ]


def test_students_under_other_names_are_below_their_teachers_in_every_form(family: Family) -> None:
    elsewhere = [
        replace(student(3, "digits/2", 2, 0.98), name="small"),
        replace(BASE, name="odd", teacher="digits/5"),
    ]
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(rich_tree(family, (), elsewhere))
    lines = capture.get().splitlines()
    assert lines[0] == "digits  5 versions"
    assert lines[3:5] == [
        "│  │  ├─ v3  generation 2  97.50 %  +0.28  @best  @latest-generation  student  seed 0",
        "│  │  └─ small/3  generation 2  98.00 %  +0.78  student  seed 0",
    ]
    assert lines[-1].startswith("   └─ odd/1  generation 0")
    found = tree_json(family, (), elsewhere)
    assert found["students_elsewhere"] == [version.to_json() for version in elsewhere]
    assert ["digits/2", "small/3"] in found["edges"]
    assert len(found["versions"]) == 5
    graph = dot(family, (), elsewhere)
    assert re.search(r'"small/3" \[label="small/3 .*style=dashed\];', graph)
    assert '"digits/2" -> "small/3";' in graph
    chart = mermaid(family, (), elsewhere)
    assert 'outside2["small/3 ' in chart
    assert "v2 --> outside2" in chart


def test_tree_says_that_a_teacher_is_missing() -> None:
    lines = drawn(Family("digits", (student(3, "digits/2", 1),)))
    assert lines == ["digits  1 version", "└─ v3  generation 1  student  seed 0  teacher digits/2 (missing)"]


def test_tree_names_the_kind_of_what_is_no_generation() -> None:
    assert (
        drawn(Family("digits", (replace(BASE, kind="ensemble"),)))[1]
        == "└─ v1  generation 0  ensemble  seed 0"
    )


def with_ensemble(*members: str) -> Family:
    """A patriarch, a student, an ensemble and the ensemble's student."""
    ensemble = replace(
        BASE,
        version=3,
        kind="ensemble",
        objective="ensemble",
        generation=1,
        members=tuple(Member(name, "m-1", "w", 1 / len(members)) for name in members),
    )
    taught = student(4, "digits/3", 2)
    return Family("digits", (BASE, student(2, "digits/1", 1), ensemble, taught))


def test_tree_names_the_members_of_an_ensemble() -> None:
    assert drawn(with_ensemble("digits/1", "digits/2", "digits/9", "other/1")) == [
        "digits  4 versions",
        "├─ v1  generation 0  tolerant  seed 0",
        "│  └─ v2  generation 1  student  seed 0",
        "└─ v3  generation 1  ensemble  seed 0  members v1, v2, digits/9 (missing), other/1",
        "   └─ v4  generation 2  student  seed 0",
    ]


def test_drawings_hold_the_edges_of_an_ensemble() -> None:
    family = with_ensemble("digits/1", "digits/2", "other/1")
    assert tree_json(family)["edges"] == [
        ["digits/1", "digits/2"],
        ["digits/1", "digits/3"],
        ["digits/2", "digits/3"],
        ["other/1", "digits/3"],
        ["digits/3", "digits/4"],
    ]
    assert [line.strip() for line in dot(family).splitlines() if "->" in line or "dashed" in line] == [
        '"other/1" [style=dashed];',
        '"digits/1" -> "digits/2";',
        '"digits/1" -> "digits/3" [style=dotted];',
        '"digits/2" -> "digits/3" [style=dotted];',
        '"other/1" -> "digits/3" [style=dotted];',
        '"digits/3" -> "digits/4";',
    ]
    edges = [line.strip() for line in mermaid(family).splitlines() if "->" in line]
    assert edges == ["v1 --> v2", "v1 -.-> v3", "v2 -.-> v3", "outside1 -.-> v3", "v3 --> v4"]


def test_tree_takes_no_name_for_markup_or_control() -> None:
    odd = replace(BASE, name="[red]x", objective="[bold]\x1b[31m", aliases=("[/]",))
    lines = drawn(Family("[red]x", (odd,)))
    assert lines == ["[red]x  1 version", "└─ v1  generation 0  @[/]  [bold]\ufffd[31m  seed 0"]


def test_tree_of_an_empty_family_is_its_name() -> None:
    assert drawn(Family("digits")) == ["digits  0 versions"]


def test_tree_of_a_long_chain_goes_on_at_the_left_and_names_the_teacher() -> None:
    lines = drawn(chain(1000), width=80)
    assert numbers(lines) == list(range(1, 1001))
    assert lines[10].endswith("v10  generation 9  student  seed 0")
    assert lines[11] == "├─ v11  generation 10  student  seed 0  teacher v10"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "teachers",
    [{1: 1}, {1: 3, 2: 1, 3: 2}, {1: 2, 2: 3, 3: 2}, {1: None, 2: 3, 3: 2}],
    ids=["self", "circle", "tail", "beside"],
)
def test_tree_draws_every_version_of_a_circle_once(teachers: dict[int, int | None]) -> None:
    family = Family(
        "digits",
        tuple(
            replace(BASE, version=number, teacher=None if teacher is None else f"digits/{teacher}")
            for number, teacher in teachers.items()
        ),
    )
    assert sorted(numbers(drawn(family))) == sorted(teachers)


def test_dot_ranks_generations_from_left_to_right() -> None:
    family = Family(
        "digits", (BASE, student(2, "digits/1", 1, 0.97), student(3, "digits/1", 1), student(4, "a/9", 2))
    )
    assert dot(family).splitlines() == [
        'digraph "digits" {',
        "  rankdir=LR;",
        "  node [shape=box];",
        r'  "digits/1" [label="v1 · generation 0\ntolerant · seed 0"];',
        r'  "digits/2" [label="v2 · generation 1\n97.00 %\nstudent · seed 0"];',
        r'  "digits/3" [label="v3 · generation 1\nstudent · seed 0"];',
        r'  "digits/4" [label="v4 · generation 2\nstudent · seed 0"];',
        '  "a/9" [style=dashed];',
        '  { rank=same; "digits/1"; }',
        '  { rank=same; "digits/2"; "digits/3"; }',
        '  { rank=same; "digits/4"; }',
        '  "digits/1" -> "digits/2";',
        '  "digits/1" -> "digits/3";',
        '  "a/9" -> "digits/4";',
        "}",
    ]


def test_dot_escapes_what_would_end_a_string() -> None:
    name = 'a"b\\'
    odd = replace(BASE, name=name, objective='"];\n\\N')
    lines = dot(Family(name, (odd,))).splitlines()
    assert lines[0] == r'digraph "a\"b\\" {'
    assert lines[3] == r'  "a\"b\\/1" [label="v1 · generation 0\n' + r"\"];" + "\ufffd" + r'\\N · seed 0"];'


def test_mermaid_draws_a_flowchart_from_left_to_right() -> None:
    family = Family("digits", (BASE, student(2, "digits/1", 1, 0.97), student(4, "a/9", 2)))
    assert mermaid(family).splitlines() == [
        "---",
        'title: "digits"',
        "---",
        "flowchart LR",
        '    v1["v1 · generation 0<br/>tolerant · seed 0"]',
        '    v2["v2 · generation 1<br/>97.00 %<br/>student · seed 0"]',
        '    v4["v4 · generation 2<br/>student · seed 0"]',
        '    outside1["a/9"]:::outside',
        "    v1 --> v2",
        "    outside1 --> v4",
        "    classDef outside stroke-dasharray: 4",
    ]


def test_mermaid_escapes_quotes_html_entities_markdown_and_directives() -> None:
    odd = replace(BASE, objective='"<b>&`#lt;%%{init}%%')
    text = mermaid(Family('a"b', (odd,)))
    assert r'title: "a\"b"' in text
    assert "<br/>#34;#60;b#62;#38;#96;#35;lt;%%#123;init}%% · seed 0" in text


def test_json_holds_versions_and_edges_from_teacher_to_student(family: Family) -> None:
    found = json.loads(json.dumps(tree_json(family)))
    assert found["name"] == "digits"
    assert found["versions"] == [version.to_json() for version in family]
    assert found["edges"] == [
        ["digits/1", "digits/2"],
        ["digits/2", "digits/3"],
        ["digits/1", "digits/4"],
        ["other/3", "digits/5"],
    ]


@pytest.mark.parametrize("draw", [dot, mermaid])
def test_drawings_hold_every_edge_of_a_circle_once(draw: Callable[[Family], object]) -> None:
    circle = Family("digits", (student(1, "digits/2", 1), student(2, "digits/1", 2)))
    assert Counter(str(draw(circle)).split())["->" if draw is dot else "-->"] == 2


@pytest.mark.parametrize("draw", [dot, mermaid, tree_json])
def test_drawing_takes_work_in_proportion_to_the_family(
    draw: Callable[[Family], object], count_calls: Callable[[Callable[[], object]], int]
) -> None:
    small, large = (count_calls(partial(draw, chain(size))) for size in (500, 5_000))
    assert large < 20 * small


@pytest.fixture
def removed() -> Tombstone:
    return Tombstone(student(2, "digits/1", 1, 0.9722), 1_800_000_000_000)


def test_tombstone_stands_in_the_place_of_what_was_removed(removed: Tombstone) -> None:
    family = Family("digits", (BASE, student(3, "digits/2", 2), student(4, "digits/1", 1)))
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(rich_tree(family, [removed]))
    assert capture.get().splitlines() == [
        "digits  3 versions  1 removed",
        "└─ v1  generation 0  tolerant  seed 0",
        "   ├─ v2  generation 1  97.22 %  student  seed 0  removed",
        "   │  └─ v3  generation 2  student  seed 0",
        "   └─ v4  generation 1  student  seed 0",
    ]
    assert "removed" in dot(family, [removed])
    assert "removed" in mermaid(family, [removed])
    assert tree_json(family, [removed])["removed"] == [
        removed.version.to_json() | {"removed": 1_800_000_000_000}
    ]


def test_tombstone_of_a_version_that_is_there_is_not_drawn(removed: Tombstone) -> None:
    family = Family("digits", (BASE, removed.version))
    assert tree_json(family, [removed])["removed"] == []
    assert dot(family, [removed]) == dot(family)
