"""Values of a report's figures, computed from families as records: without a store, images or torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lineage.display.comparison import CONFIDENCE, Comparison, Spread
from lineage.display.figures.values import Bins, Numbers, Pair, Panel, Point, Similarity
from lineage.evaluation.compare import compare_lines, newest
from lineage.formats import unit_of
from lineage.registry.family.family import Version
from lineage.registry.packing.record import FamilyRecord
from lineage.registry.store.predicted import Predictions

Lines = Mapping[str, Sequence[Version]]
PredictionsOf = Callable[[Version], Predictions | None]

_MOST_RELIABILITY_PANELS = 6
_MOST = 1e6  # of a metric; more is a mistake, which would hide everything else in a figure


@dataclass(frozen=True)
class ReportData:
    """What a report is made of.

    Attributes:
        records: Families.
        lines: Their versions by line, at most as many as there are colours.
        overrides: Texts ``data.key=value`` that say where the images are.
    """

    records: Sequence[FamilyRecord]
    lines: Lines
    overrides: Sequence[str] = ()

    def predictions_of(self, version: Version) -> Predictions | None:
        """Return what a version predicted; None if that was not kept."""
        record = next(record for record in self.records if record.name == version.name)
        return record.predictions_of(version)


def _value(version: Version, metric: str) -> float | None:
    """Return a metric that can be drawn; None if there is none."""
    value = version.metrics.get(metric, math.nan)
    return value if abs(value) < _MOST else None


def comparison_of(lines: Lines, metric: str) -> Comparison | None:
    """Return the comparison of lines by a metric; None if no version has it as a number of any sense."""
    measured = {
        label: [version for version in versions if _value(version, metric) is not None]
        for label, versions in lines.items()
    }
    kept = {label: versions for label, versions in measured.items() if versions}
    return compare_lines(kept, metric) if kept else None


def metric_panel(title: str, comparison: Comparison) -> Panel:
    """Return the means of a comparison by generation, with their 95 % intervals over seeds."""
    unit = unit_of(comparison.metric)
    lines: dict[str, list[Point]] = {label: [] for label in comparison.lines}
    for entry in comparison.entries:
        lines[entry.line].append(Point(entry.generation, entry.spread.mean, mean_interval(entry.spread)))
    return Panel(title, unit.sign.strip() or unit.of_changes, unit.scale, lines)


def difference_panel(comparison: Comparison) -> Panel | None:
    """Return the paired differences from the first line; None if no line shares a seed with it."""
    lines: dict[str, list[Point]] = {label: [] for label in comparison.lines[1:]}
    for entry in comparison.entries:
        if entry.difference is not None and entry.difference.mean is not None:
            point = Point(entry.generation, entry.difference.mean, entry.difference.interval)
            lines[entry.line].append(point)
    if not any(lines.values()):
        return None
    unit = unit_of(comparison.metric)
    title = f"paired differences from {comparison.reference}"
    return Panel(title, unit.of_changes, unit.scale, lines, zero=True)


def mean_interval(spread: Spread) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over seeds, by the t distribution; None for one seed."""
    if spread.deviation is None:
        return None
    from scipy.stats import t

    reach = float(t.ppf((1 + CONFIDENCE) / 2, spread.n - 1)) * spread.deviation / math.sqrt(spread.n)
    return spread.mean - reach, spread.mean + reach


def reliability_panels(lines: Lines, predictions_of: PredictionsOf) -> dict[str, dict[str, Bins]]:
    """Return the bins of each line by generation, all seeds together; of many generations, six.

    Of several branches of one seed, the newest counts, as in a comparison.
    """
    found: dict[int, dict[str, Bins]] = {}
    for label, versions in lines.items():
        by_generation: dict[int, list[Predictions]] = {}
        kept = {version.id: predicted for version in versions if (predicted := predictions_of(version))}
        for version in newest(version for version in versions if version.id in kept):
            by_generation.setdefault(version.generation, []).append(kept[version.id])
        for generation, several in by_generation.items():
            found.setdefault(generation, {})[label] = bins_of(several)
    generations = sorted(found)
    if len(generations) > _MOST_RELIABILITY_PANELS:
        places = np.linspace(0, len(generations) - 1, _MOST_RELIABILITY_PANELS).round().astype(int)
        generations = [generations[place] for place in places]
    return {f"generation {generation}": found[generation] for generation in generations}


def bins_of(several: Sequence[Predictions]) -> Bins:
    """Return the bins of a reliability diagram that hold images, of several predictions together."""
    count = np.sum([predicted.reliability.count for predicted in several], axis=0)
    confidence = np.sum([predicted.reliability.confidence for predicted in several], axis=0)
    correct = np.sum([predicted.reliability.correct for predicted in several], axis=0)
    held = count > 0
    return Bins(confidence[held] / count[held], correct[held] / count[held], count[held] / count.sum())


@dataclass(frozen=True)
class Ranking:
    """How the order of teachers and that of their students agree.

    Attributes:
        family: Name of the registered model.
        num_pairs: Number of teachers with a student.
        inverted: Share of all pairs of teachers of which the better one has the worse student.
        kendall: Kendall's τ-b with its p-value; None for fewer than three pairs, or equal accuracies.
        spearman: Spearman's ρ, likewise.
    """

    family: str
    num_pairs: int
    inverted: float
    kendall: tuple[float, float] | None
    spearman: tuple[float, float] | None


def teacher_pairs(
    records: Sequence[FamilyRecord], lines: Lines, metric: str = "test_accuracy"
) -> tuple[list[Pair], list[Ranking]]:
    """Return the pairs of teacher and student of each family, and how their orders agree.

    Teachers may be of any family that is given.
    """
    by_id = {version.id: version for record in records for version in record.family}
    label_of = {version.id: label for label, versions in lines.items() for version in versions}
    pairs: list[Pair] = []
    rankings = []
    for record in records:
        own = []
        for student in record.family:
            teacher = by_id.get(student.teacher or "")
            if teacher is None or student.id not in label_of:
                continue
            given, taken = _value(teacher, metric), _value(student, metric)
            if given is not None and taken is not None:
                own.append(Pair(label_of[student.id], student.generation, given, taken, inverted=False))
        pairs += [replace(pair, inverted=any(_inverts(pair, other) for other in own)) for pair in own]
        if own:
            rankings.append(_ranking(record.name, own))
    return pairs, rankings


def _inverts(pair: Pair, other: Pair) -> bool:
    return other.teacher < pair.teacher and other.student > pair.student


def _ranking(name: str, pairs: Sequence[Pair]) -> Ranking:
    from scipy.stats import kendalltau, spearmanr

    twos = len(pairs) * (len(pairs) - 1) // 2
    inverted = sum(_inverts(pair, other) for pair in pairs for other in pairs) / max(twos, 1)
    teachers, students = [pair.teacher for pair in pairs], [pair.student for pair in pairs]
    if len(pairs) < 3 or len(set(teachers)) == 1 or len(set(students)) == 1:
        return Ranking(name, len(pairs), inverted, None, None)
    kendall, spearman = (test(teachers, students) for test in (kendalltau, spearmanr))
    return Ranking(
        name,
        len(pairs),
        inverted,
        (float(kendall.statistic), float(kendall.pvalue)),
        (float(spearman.statistic), float(spearman.pvalue)),
    )


def class_similarity(predicted: Predictions) -> Numbers:
    """Return the mean probability that is given to class j for images of class i, shape (C, C).

    It is known from the most probable classes alone, so that a row sums to a little less than 1.
    """
    num_classes = predicted.num_classes
    labels = np.repeat(predicted.labels, predicted.classes.shape[1])
    flat = labels * num_classes + predicted.classes.ravel()
    sums = np.bincount(flat, predicted.probabilities.ravel(), num_classes**2).reshape(num_classes, -1)
    images = np.bincount(predicted.labels, minlength=num_classes)
    similarity: Numbers = sums / np.maximum(images, 1)[:, None]
    return similarity


def order_classes(
    title: str, similarity: Numbers, names: Sequence[str], superclasses: Sequence[int] | None
) -> Similarity:
    """Return a similarity without its diagonal, with classes of one superclass side by side."""
    order = np.arange(len(names)) if superclasses is None else np.argsort(superclasses, kind="stable")
    matrix = similarity[np.ix_(order, order)].copy()
    np.fill_diagonal(matrix, 0)
    borders: list[int] = []
    if superclasses is not None:
        sorted_groups = np.asarray(superclasses)[order]
        borders = (np.flatnonzero(np.diff(sorted_groups)) + 1).tolist()
    return Similarity(title, matrix, [names[place] for place in order], borders)


def nearest_inside(similarity: Numbers, superclasses: Sequence[int]) -> tuple[float, float] | None:
    """Return the share of classes whose most similar class is of their superclass, and that of chance.

    Classes that give no probability to others have no such class; None if all are of that kind.
    """
    others = similarity.copy()
    np.fill_diagonal(others, 0)
    has_one = others.max(axis=1) > 0
    if not has_one.any():
        return None
    groups = np.asarray(superclasses)
    inside = groups[others.argmax(axis=1)] == groups
    by_chance = (np.bincount(groups)[groups] - 1) / (len(groups) - 1)
    return float(inside[has_one].mean()), float(by_chance[has_one].mean())


def most_similar(similarity: Numbers, count: int) -> list[tuple[int, int]]:
    """Return the pairs of different classes (i, j) that are most similar to the network, most first."""
    others = similarity.copy()
    np.fill_diagonal(others, 0)
    best = np.argsort(-others, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(others)) for place in best]
    return [(row, column) for row, column in pairs if others[row, column] > 0]
