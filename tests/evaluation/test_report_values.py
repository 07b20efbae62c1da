"""Values of a report's figures, against plain loops and scipy."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import SUPERCLASSES, small_predictions, small_record
from scipy.stats import kendalltau, sem, spearmanr, t

from lineage.display.comparison import Spread
from lineage.errors import LineageError
from lineage.evaluation.compare import group_lines
from lineage.evaluation.report_examples import choose_images
from lineage.evaluation.report_sections import all_sections
from lineage.evaluation.report_values import (
    ReportData,
    class_similarity,
    comparison_of,
    difference_panel,
    mean_interval,
    metric_panel,
    most_similar,
    nearest_inside,
    order_classes,
    reliability_panels,
    teacher_pairs,
)
from lineage.registry.packing.record import read_record, record_text

METRICS = "lineage.metrics"


def test_interval_is_that_of_the_t_distribution() -> None:
    values = [0.5, 0.6, 0.64]
    expected = t.interval(0.95, 2, loc=np.mean(values), scale=sem(values))
    assert mean_interval(Spread.of(values)) == pytest.approx(expected)
    assert mean_interval(Spread.of([0.5])) is None


def test_differences_are_paired_with_the_first_line() -> None:
    records = [small_record(), small_record("other", gain=0.5)]
    lines = group_lines([record.family for record in records])
    comparison = comparison_of(lines, "test_accuracy")
    assert comparison is not None
    assert metric_panel("accuracy", comparison).lines.keys() == {"fruit", "other"}
    panel = difference_panel(comparison)
    assert panel is not None
    (points,) = panel.lines.values()
    by_place = [{(v.seed, v.generation): v.metrics["test_accuracy"] for v in r.family} for r in records]
    for point in points:
        expected = [
            by_place[1][seed, point.generation] - by_place[0][seed, point.generation] for seed in (0, 1)
        ]
        assert point.mean == pytest.approx(np.mean(expected))
    assert comparison_of(lines, "test_entropy") is None


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e300])
def test_number_that_would_hide_the_others_is_left_out(value: float) -> None:
    family = small_record(seeds=1).family
    versions = [replace(version, metrics={"test_accuracy": value}) for version in family]
    assert comparison_of({"line": versions}, "test_accuracy") is None
    comparison = comparison_of({"line": [*versions[:1], *family.versions[1:]]}, "test_accuracy")
    assert comparison is not None
    assert [entry.generation for entry in comparison.entries] == [1, 2]


def test_inverted_pairs_and_ranks_are_those_of_all_twos() -> None:
    record = small_record(seeds=4)
    lines = group_lines([record.family])
    pairs, (ranking,) = teacher_pairs([record], lines)
    accuracy = {version.id: version.metrics["test_accuracy"] for version in record.family}
    plain = [(accuracy[v.teacher], accuracy[v.id]) for v in record.family if v.teacher]
    assert [(pair.teacher, pair.student) for pair in pairs] == plain
    twos = list(itertools.combinations(plain, 2))
    assert ranking.inverted == sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in twos) / len(twos)
    assert [pair.inverted for pair in pairs] == [
        any(b[0] < a[0] and b[1] > a[1] for b in plain) for a in plain
    ]
    assert ranking.kendall == pytest.approx(tuple(kendalltau(*zip(*plain, strict=True))))
    assert ranking.spearman == pytest.approx(tuple(spearmanr(*zip(*plain, strict=True))))


def test_two_pairs_have_no_rank_correlation() -> None:
    record = small_record(seeds=2, generations=2)
    _, (ranking,) = teacher_pairs([record], group_lines([record.family]))
    assert (ranking.num_pairs, ranking.kendall, ranking.spearman) == (2, None, None)


def test_reliability_adds_up_the_seeds() -> None:
    record = small_record(generations=8)
    panels = reliability_panels(group_lines([record.family]), record.predictions_of)
    assert list(panels) == [f"generation {generation}" for generation in (0, 1, 3, 4, 6, 7)]
    several = [record.predictions_of(v) for v in record.family if v.generation == 3]
    top = np.concatenate([predicted.probabilities[:, 0] for predicted in several if predicted])
    right = np.concatenate(
        [predicted.classes[:, 0] == predicted.labels for predicted in several if predicted]
    )
    bins = panels["generation 3"]["fruit"]
    assert bins.share.sum() == pytest.approx(1)
    assert (bins.share * bins.confidence).sum() == pytest.approx(top.mean(), abs=1e-4)
    assert (bins.share * bins.accuracy).sum() == pytest.approx(right.mean())


def test_reliability_of_branches_is_that_of_the_newest() -> None:
    record = small_record(seeds=1, generations=2)
    older, newer = record.family.versions
    branch = replace(newer, generation=0, created=newer.created + 1)
    alone = reliability_panels({"line": [branch]}, record.predictions_of)
    both = reliability_panels({"line": [branch, older]}, record.predictions_of)
    bins, expected = both["generation 0"]["line"], alone["generation 0"]["line"]
    assert bins.accuracy.tolist() == expected.accuracy.tolist()
    assert bins.share.tolist() == expected.share.tolist()


def test_audited_versions_have_a_part_of_their_own() -> None:
    record = small_record()
    rates = json.dumps({"auc": 0.6, "low_auc": 0.5, "tpr_at_fpr_0.01": 0.02})
    audited = replace(record.versions[0], tags=record.versions[0].tags | {"lineage.audit.lira": rates})
    whole = replace(record, versions=(audited, *record.versions[1:]))
    titles = [
        [section.title for section in all_sections(ReportData([one], group_lines([one.family])))]
        for one in (record, whole)
    ]
    assert set(titles[1]) - set(titles[0]) == {"Membership inference"}


def test_similarity_is_the_mean_probability_by_label() -> None:
    predicted = small_predictions(1)
    found = class_similarity(predicted)
    expected = np.zeros((6, 6))
    for label, classes, probabilities in zip(
        predicted.labels, predicted.classes, predicted.probabilities, strict=True
    ):
        expected[label, classes] += probabilities / (predicted.labels == label).sum()
    assert found == pytest.approx(expected)
    order = order_classes("network", found, list("abcdef"), (1, 0, 1, 0, 1, 0))
    assert (order.names, order.borders) == (list("bdface"), [3])
    assert order.matrix[0, 1] == pytest.approx(expected[1, 3])
    assert np.diag(order.matrix).tolist() == [0] * 6
    (row, column), *_ = most_similar(found, 3)
    np.fill_diagonal(expected, 0)
    assert expected[row, column] == pytest.approx(expected.max())


def test_nearest_class_is_compared_with_chance() -> None:
    similarity = np.eye(6)
    similarity[[0, 1, 2, 3, 4, 5], [1, 0, 0, 0, 5, 4]] = 0.5
    found = nearest_inside(similarity, SUPERCLASSES)
    assert found is not None
    inside, chance = found
    assert (inside, chance) == (pytest.approx(5 / 6), pytest.approx(2 / 5))


def test_chosen_images_are_those_that_were_learned_lost_and_kept() -> None:
    first, last = small_predictions(1), small_predictions(2)
    was, now = (predicted.classes[:, 0] == predicted.labels for predicted in (first, last))
    chosen = choose_images(first, last)
    assert len({row for _, row in chosen}) == len(chosen) == 12
    kinds = {"learned": (False, True), "lost": (True, False), "both right": (True, True)}
    for reason, row in chosen:
        assert (bool(was[row]), bool(now[row])) == kinds[reason]
    labels = [int(last.labels[row]) for reason, row in chosen if reason == "learned"]
    assert len(set(labels)) == len(labels) == 4
    assert not math.isnan(last.accuracy)


def test_equal_networks_have_images_that_both_have_right_and_wrong() -> None:
    predicted = small_predictions(1)
    assert {reason for reason, _ in choose_images(predicted, predicted)} == {"both right"}


VALUES = st.one_of(
    st.none(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.just([]), st.just({})
)


def test_altered_text_is_reported_or_told(tmp_path: Path) -> None:
    """Whatever a text holds that can be read, every part of a report can be made of it."""
    tree = json.loads(record_text(small_record(seeds=1, generations=2)))
    file = tmp_path / "altered.json"
    version, (data,) = tree["versions"][1], tree["data"].values()
    parts = (
        tree,
        version,
        data,
        version["tags"],
        version["transfers"][0],
        json.loads(version["tags"][METRICS]),
    )
    places = [(part, key) for part in parts for key in part]

    @settings(max_examples=120, deadline=None, database=None, derandomize=True)
    @given(st.sampled_from(range(len(places))), VALUES)
    def alter(number: int, value: Any) -> None:
        part, key = places[number]
        former, metrics = part[key], version["tags"].get(METRICS)
        part[key] = value
        if part is parts[-1]:
            version["tags"][METRICS] = json.dumps(part)
        file.write_text(json.dumps(tree))
        part[key] = former
        version["tags"][METRICS] = metrics
        try:
            record = read_record(file)
            all_sections(ReportData([record], group_lines([record.family])))
        except LineageError as error:
            assert "\n" not in str(error)

    alter()
