from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from lineage.display.tables import (
    comparison_table,
    evaluation_table,
    generations_table,
    seeds_table,
    version_table,
)
from lineage.evaluation.compare import compare_lines
from lineage.registry.family.family import Member, Version

PATRIARCH = Version(
    name="digits",
    version=1,
    root="digits/1",
    objective="tolerant",
    recipe_digest="d" * 64,
    key="k" * 64,
    metrics={
        "test_accuracy": 0.96,
        "test_top_probability": 0.9,
        "test_secondary_mass": 0.08,
        "test_calibration_error": 0.0123,
        "ensemble_accuracy": 0.96,
    },
    weights_sha256="a" * 64,
    model_id="m-1",
    run_id="r-1",
    created=1_700_000_000_000,
)
STUDENT = replace(
    PATRIARCH,
    version=2,
    generation=1,
    teacher="digits/1",
    objective="student",
    metrics={"test_accuracy": 0.975, "ensemble_accuracy": 0.98},
    aliases=("best", "latest-generation"),
)


def accuracy(share: float, seed: int = 0, generation: int = 0) -> Version:
    return replace(PATRIARCH, generation=generation, seed=seed, metrics={"test_accuracy": share})


def rows(table: Table) -> list[list[str]]:
    """Cells of each row, as text."""
    return [
        list(row)
        for row in zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    ]


def printed(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_generations_table_sets_students_beside_their_teachers() -> None:
    table = generations_table([PATRIARCH, STUDENT], {"digits/1": PATRIARCH})
    assert printed(table) == [
        "digits, seed 0",
        "                test               top  secondary  calib.  ensemble",
        "generation  accuracy  teacher    prob.       mass   error    so far  version",
        "────────────────────────────────────────────────────────────────────────────",
        "         0   96.00 %        –  90.00 %     8.00 %  1.23 %   96.00 %       v1",
        "         1   97.50 %  96.00 %        –          –       –   98.00 %       v2",
    ]


def test_generations_table_of_several_models_names_them() -> None:
    other = replace(STUDENT, name="other")
    table = generations_table([PATRIARCH, other], {})
    assert table.title is None
    assert [row[-1] for row in rows(table)] == ["digits/1", "other/2"]


def test_seeds_table_gives_mean_and_sample_deviation() -> None:
    groups = [
        [accuracy(share, seed), accuracy(0.97, seed, 1)] for seed, share in enumerate([0.95, 0.96, 0.97])
    ]
    table = seeds_table(groups)
    assert rows(table) == [["0", "96.00 ± 1.00 %", "–", "–"], ["1", "97.00 ± 0.00 %", "–", "–"]]
    assert str(table.caption) == "mean ± sample standard deviation, n = 3 seeds"


def test_seeds_table_of_one_seed_has_no_deviation() -> None:
    table = seeds_table([[PATRIARCH, STUDENT]])
    assert rows(table)[0] == ["0", "96.00 %", "90.00 %", "96.00 %"]
    assert str(table.caption) == "n = 1 seed"


def test_seeds_table_says_where_a_seed_is_missing() -> None:
    groups = [[accuracy(0.95), accuracy(0.96, 0, 1)], [accuracy(0.97, 1)]]
    assert [row[1] for row in rows(seeds_table(groups))] == ["96.00 ± 1.41 %", "96.00 % (n=1)"]


def test_version_table_holds_every_field_and_metric() -> None:
    cells = dict(rows(version_table(STUDENT, {})))
    assert cells == {
        "kind": "generation",
        "generation": "1",
        "teacher": "digits/1",
        "root": "digits/1",
        "objective": "student",
        "seed": "0",
        "aliases": "@best @latest-generation",
        "recipe digest": "d" * 64,
        "key": "k" * 64,
        "weights sha256": "a" * 64,
        "model id": "m-1",
        "run id": "r-1",
        "created": "2023-11-14 22:13:20 UTC",
        "ensemble_accuracy": "98.00 %",
        "test_accuracy": "97.50 %",
    }


def test_version_table_marks_what_is_absent() -> None:
    cells = dict(rows(version_table(replace(PATRIARCH, created=0, run_id=""), {})))
    assert (cells["teacher"], cells["aliases"], cells["created"], cells["run id"]) == ("none", "–", "–", "–")


def test_version_table_names_members_with_their_weights() -> None:
    members = (Member("digits/1", "m-1", "w", 0.25), Member("digits/2", "m-2", "w", 0.75))
    cells = dict(rows(version_table(replace(PATRIARCH, kind="ensemble", members=members), {})))
    assert cells["members"] == "digits/1 (0.250), digits/2 (0.750)"


def test_tables_take_no_name_for_markup() -> None:
    odd = replace(PATRIARCH, name="[red]x", objective="[/]")
    text = "\n".join(printed(version_table(odd, {})))
    assert "models:/[red]x/1" in text
    assert "[/]" in text


def test_evaluation_table_tells_equal_from_nearly_equal() -> None:
    measured = {"test_accuracy": 0.975, "test_cross_entropy": 0.5 + 2**-24, "test_agreement": 1.0}
    recorded = {"test_accuracy": 0.975, "test_cross_entropy": 0.5, "seconds": 3.0}
    assert rows(evaluation_table(measured, recorded)) == [
        ["test_accuracy", "97.50 %", "97.50 %", "0"],
        ["test_cross_entropy", "0.5000", "0.5000", "+6.0e-08"],
        ["test_agreement", "100.00 %", "–", "–"],
    ]


def test_comparison_table_shows_differences_with_their_intervals() -> None:
    tolerant = [accuracy(share, seed) for seed, share in enumerate([0.95, 0.96, 0.97])]
    strict = [accuracy(share, seed) for seed, share in enumerate([0.96, 0.98, 1.00, 0.5])]
    table = comparison_table(
        compare_lines({"tolerant": tolerant, "strict": strict, "late": [accuracy(0.9, 9, 1)]})
    )
    assert rows(table) == [
        ["0", "tolerant", "3", "96.00 ± 1.00 %", "", "", ""],
        ["", "strict", "4", "86.00 ± 24.06 %", "+2.00", "-0.48 to +4.48", "3 of 4"],
        ["1", "late", "1", "90.00 %", "–", "–", "0 of 1"],
    ]
    assert str(table.caption) == (
        "Differences from tolerant over the seeds of both, in percentage points.\n"
        "An interval needs two seeds that both lines have; where there are fewer, none is given."
    )


def test_comparison_table_of_one_line_has_no_differences() -> None:
    table = comparison_table(compare_lines({"tolerant": [accuracy(0.95)]}))
    assert rows(table) == [["0", "tolerant", "1", "95.00 %"]]
    assert table.caption is None


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_a_terminal_without_cutting_numbers(width: int) -> None:
    lines = {
        name: [accuracy(0.95 + seed / 100, seed) for seed in range(4)]
        for name in ("first", "a-long-name" * 3)
    }
    text = printed(comparison_table(compare_lines(lines)), width)
    assert "…" not in "".join(text)
    assert max(map(len, text)) <= width
    assert any(line.endswith("+0.00 to +0.00  4 of 4") for line in text)


def test_numbers_are_aligned_at_the_right() -> None:
    tables = [
        generations_table([PATRIARCH], {}),
        seeds_table([[PATRIARCH]]),
        evaluation_table({"test_accuracy": 1.0}, {}),
        comparison_table(compare_lines({"a": [PATRIARCH], "b": [PATRIARCH]})),
    ]
    left = {str(column.header) for table in tables for column in table.columns if column.justify != "right"}
    assert left == {"metric", "line"}
