from collections.abc import Sequence
from typing import Any

from rich.console import Console

from lineage.display.care_tables import diagnosis_tables, history_table, relatives_table
from lineage.registry.care.checks import Diagnosis, Finding
from lineage.registry.family.family import Version
from lineage.registry.family.history import Event
from lineage.registry.family.lookup import Relative

VERSION = Version("digits", 2, generation=1, objective="student", metrics={"test_accuracy": 0.975})
NOON = 1_800_000_000_000


def printed(renderables: Sequence[Any]) -> list[str]:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    return [line.strip() for line in capture.get().splitlines()]


def test_relatives_stand_with_their_distance() -> None:
    lines = printed([relatives_table([Relative(VERSION, 1)])])
    assert lines[-1].split() == ["1", "digits/2", "1", "97.50", "%", "student"]


def test_history_marks_what_is_inferred() -> None:
    events = [
        Event("registered", 1, time=NOON, user="ann"),
        Event("alias", 1, "best", time=NOON, user="ann"),
        Event("alias", 2, "best", 1, inferred=True),
        Event("alias", None, "[b]", 2, inferred=True),
        Event("removed", 2, inferred=True),
    ]
    lines = [line.split("  ") for line in printed([history_table(events)])[2:]]
    assert [[cell.strip() for cell in line if cell.strip()] for line in lines] == [
        ["2027-01-15 08:00:00 UTC", "v1 registered", "ann"],
        ["2027-01-15 08:00:00 UTC", "@best moved to v1", "ann"],
        ["–", "@best moved from v1 to v2", "inferred"],
        ["–", "@[b] removed from v2", "inferred"],
        ["–", "v2 removed", "inferred"],
    ]


def test_diagnosis_says_what_was_fixed_and_what_is_left() -> None:
    fixed = Finding("broken-card", "models:/digits/1", "The card must link v2, but does not", "it can", str)
    left = Finding("circle", "models:/digits/2", "v2 must not, but does", "cannot be completed: look")
    lines = printed(diagnosis_tables(Diagnosis("digits", 2, (left,), (fixed,))))
    assert "broken-card  The card must link v2, but does not." in lines
    assert "circle  v2 must not, but does (cannot be completed: look)." in lines
    assert lines[-1] == "digits has 1 finding, 2 versions examined."


def test_finding_that_can_be_completed_says_how() -> None:
    finding = Finding("broken-card", "models:/digits/1", "The card is broken", "it can be written", str)
    text = " ".join(printed(diagnosis_tables(Diagnosis("digits", 2, (finding,)))))
    assert "(it can be written; --fix does)." in text
