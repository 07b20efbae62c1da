import json
import math
from dataclasses import replace
from statistics import mean, stdev

import pytest
from scipy.stats import ttest_rel

from lineage.display.comparison import Comparison, Difference, Entry
from lineage.errors import UsageError
from lineage.evaluation.compare import compare_lines, group_lines
from lineage.registry.family.family import Family, Version

TOLERANT = [0.951, 0.962, 0.957, 0.949, 0.970]
STRICT = [0.948, 0.965, 0.950, 0.941, 0.961]

BASE = Version(
    name="digits",
    version=1,
    root="digits/1",
    objective="tolerant",
    recipe_digest="a" * 64,
    metrics={"test_accuracy": 0.5},
)


def measured(accuracy: float, seed: int = 0, generation: int = 0, version: int = 1) -> Version:
    return replace(
        BASE, version=version, generation=generation, seed=seed, metrics={"test_accuracy": accuracy}
    )


def line(accuracies: list[float], first_seed: int = 0, generation: int = 0) -> list[Version]:
    return [measured(accuracy, seed, generation) for seed, accuracy in enumerate(accuracies, first_seed)]


def entry(comparison: Comparison, label: str, generation: int = 0) -> Entry:
    return next(e for e in comparison.entries if (e.line, e.generation) == (label, generation))


def difference(comparison: Comparison, label: str, generation: int = 0) -> Difference:
    found = entry(comparison, label, generation).difference
    assert found is not None
    return found


def test_spread_is_mean_and_sample_deviation_over_seeds() -> None:
    spread = entry(compare_lines({"tolerant": line(TOLERANT)}), "tolerant").spread
    assert spread.n == 5
    assert spread.mean == pytest.approx(0.9578, abs=1e-12)
    assert spread.deviation == pytest.approx(math.sqrt(0.0002908 / 4), abs=1e-12)


def test_spread_of_one_seed_has_no_deviation() -> None:
    spread = entry(compare_lines({"tolerant": line([0.9])}), "tolerant").spread
    assert (spread.n, spread.mean, spread.deviation) == (1, 0.9, None)


def test_interval_is_that_of_the_paired_t_test() -> None:
    found = difference(compare_lines({"tolerant": line(TOLERANT), "strict": line(STRICT)}), "strict")
    expected = ttest_rel(STRICT, TOLERANT).confidence_interval(0.95)
    assert (found.pairs, found.unpaired) == (5, 0)
    assert found.mean == pytest.approx(mean(STRICT) - mean(TOLERANT), abs=1e-12)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_agrees_with_the_table_of_student() -> None:
    found = difference(compare_lines({"a": line([0.1, 0.2, 0.3]), "b": line([0.2, 0.4, 0.6])}), "b")
    half = 4.302653 * 0.1 / math.sqrt(3)  # t(2) at 97.5 %
    assert found.interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-7)


def test_interval_of_equal_differences_has_no_width() -> None:
    found = difference(compare_lines({"a": line([0.25, 0.5]), "b": line([0.5, 0.75])}), "b")
    assert (found.mean, found.interval) == (0.25, (0.25, 0.25))


def test_pairs_are_of_equal_seed_whatever_the_order() -> None:
    backwards = list(reversed(line(STRICT)))
    assert compare_lines({"a": line(TOLERANT), "b": backwards}) == compare_lines(
        {"a": line(TOLERANT), "b": line(STRICT)}
    )


def test_seeds_of_one_line_alone_are_left_out_of_differences_and_counted() -> None:
    comparison = compare_lines({"a": line([0.1, 0.2, 0.3]), "b": line([0.3, 0.5, 0.9, 0.9], first_seed=1)})
    found = difference(comparison, "b")
    assert (found.pairs, found.unpaired) == (2, 3)
    assert found.mean == pytest.approx(mean([0.3 - 0.2, 0.5 - 0.3]))
    assert entry(comparison, "b").spread.n == 4


def test_one_pair_has_a_difference_but_no_interval_and_says_so() -> None:
    comparison = compare_lines({"a": line([0.25]), "b": line([0.5])})
    assert difference(comparison, "b") == Difference(pairs=1, unpaired=0, mean=0.25, interval=None)
    assert comparison.notes == (
        "An interval needs two seeds that both lines have; where there are fewer, none is given.",
    )


def test_generation_without_a_pair_has_no_difference() -> None:
    comparison = compare_lines({"a": line(TOLERANT), "b": [*line(STRICT), measured(0.9, generation=1)]})
    assert difference(comparison, "b", 1) == Difference(pairs=0, unpaired=1, mean=None, interval=None)


def test_generations_are_compared_apart_and_listed_in_order() -> None:
    lines = {
        "b": [*line([0.5, 0.75], generation=1), *line([0.25, 0.5])],
        "a": [*line([0.5, 1.0]), *line([0.5, 0.5], generation=1)],
    }
    comparison = compare_lines(lines)
    assert [(e.generation, e.line) for e in comparison.entries] == [(0, "b"), (0, "a"), (1, "b"), (1, "a")]
    assert [difference(comparison, "a", generation).mean for generation in (0, 1)] == [0.375, -0.125]
    assert comparison.reference == "b"


def test_newest_of_several_branches_counts_and_a_note_says_so() -> None:
    branches = [measured(0.9, version=7), measured(0.8, version=3), measured(0.1, seed=1)]
    comparison = compare_lines({"digits": branches})
    assert entry(comparison, "digits").spread.mean == 0.5
    assert comparison.notes == (
        "digits: left out 1 version for a newer one of the same seed and generation.",
    )


@pytest.mark.parametrize("metrics", [{}, {"test_accuracy": math.nan}], ids=["absent", "nan"])
def test_versions_without_a_finite_metric_are_left_out_and_counted(metrics: dict[str, float]) -> None:
    without = [replace(BASE, seed=seed, metrics=metrics) for seed in (5, 6)]
    comparison = compare_lines({"digits": [*line(TOLERANT), *without]})
    assert entry(comparison, "digits").spread.n == 5
    assert comparison.notes == ("digits: left out 2 versions without a finite test_accuracy.",)


def test_another_metric_can_be_compared() -> None:
    lines = {"a": [replace(BASE, metrics={"test_cross_entropy": 2.0})]}
    assert entry(compare_lines(lines, "test_cross_entropy"), "a").spread.mean == 2.0


def test_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        compare_lines({"a": line(TOLERANT)}, "test_acuracy")
    assert str(caught.value) == (
        "The metric must be one that the versions hold (test_accuracy), but got 'test_acuracy'."
        " Did you mean 'test_accuracy'?"
    )


def test_versions_without_any_metric_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"one that the versions hold \(they hold none\), but got 'test_accuracy'"
    ):
        compare_lines({"a": [replace(BASE, metrics={})]})


def test_comparison_of_no_line_is_refused() -> None:
    with pytest.raises(UsageError, match="A comparison needs at least one line, but got none"):
        compare_lines({})


def test_comparison_as_json_holds_every_number() -> None:
    comparison = compare_lines({"a": line([0.1, 0.2, 0.3]), "b": line([0.2, 0.4, 0.6])})
    found = json.loads(json.dumps(comparison.to_json()))
    assert (found["metric"], found["lines"], found["reference"]) == ("test_accuracy", ["a", "b"], "a")
    first, second = found["entries"]
    assert first["difference"] is None
    assert (second["generation"], second["line"], second["n"]) == (0, "b", 3)
    assert second["standard_deviation"] == pytest.approx(stdev([0.2, 0.4, 0.6]))
    assert second["difference"]["pairs"] == 3
    assert second["difference"]["confidence"] == 0.95
    assert len(second["difference"]["interval"]) == 2


def test_line_of_a_model_with_one_recipe_has_its_name() -> None:
    family = Family("digits", (measured(0.5), measured(0.6, seed=1, version=2)))
    assert group_lines([family]) == {"digits": list(family)}


def test_lines_of_a_model_with_several_recipes_have_objective_and_digest() -> None:
    strict = replace(BASE, version=2, objective="strict", root="digits/2", recipe_digest="b" * 64)
    students = [
        replace(parent, version=version, teacher=parent.id, root=parent.id, objective="student", generation=1)
        for version, parent in ((3, BASE), (4, strict))
    ]
    lines = group_lines([Family("digits", (BASE, strict, *students))])
    assert {label: [version.version for version in versions] for label, versions in lines.items()} == {
        "digits (tolerant, aaaaaaaa)": [1, 3],
        "digits (strict, bbbbbbbb)": [2, 4],
    }


def test_lines_of_branches_are_named_after_their_root() -> None:
    branch = replace(BASE, version=2, teacher="digits/1", objective="student", recipe_digest="b" * 64)
    assert list(group_lines([Family("digits", (BASE, branch))])) == [
        "digits (tolerant, aaaaaaaa)",
        "digits (tolerant, bbbbbbbb)",
    ]


def test_ensembles_stand_in_no_line() -> None:
    ensemble = replace(BASE, version=2, kind="ensemble", recipe_digest="")
    assert group_lines([Family("digits", (BASE, ensemble))]) == {"digits": [BASE]}


def test_lines_of_several_models_keep_the_order_given() -> None:
    families = [Family(name, (replace(BASE, name=name),)) for name in ("strict", "digits")]
    assert list(group_lines(families)) == ["strict", "digits"]


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ([], "A comparison needs at least one registered model, but got none"),
        ([Family("digits", (BASE,))] * 2, "takes a registered model once, but got 'digits' again"),
        (
            [Family("digits")],
            "Registered model 'digits' must hold a generation to be compared, but holds none",
        ),
    ],
    ids=["none", "twice", "empty"],
)
def test_families_that_cannot_be_compared_are_refused(families: list[Family], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        group_lines(families)
