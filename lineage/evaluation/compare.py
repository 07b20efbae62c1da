"""Comparison of families: means over seeds, and differences paired by seed.

Lines of one seed share splits and the order of the data, so that differences within pairs have less variance
than the difference of two means.
"""

import math
import operator
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lineage.display.comparison import CONFIDENCE, Comparison, Difference, Entry, Spread
from lineage.errors import UsageError, suggestion
from lineage.formats import counted
from lineage.registry.family.family import Family, Version
from lineage.registry.family.lookup import read_family

BySeed = dict[int, float]


def group_lines(families: Sequence[Family]) -> dict[str, list[Version]]:
    """Return versions by line: one line for each recipe of each registered model, over all its seeds.

    A line is named after its registered model if that holds one recipe. If it holds several, their lines are
    named ``name (objective, digest)``, with the root's objective and the first 8 digits of the recipe's
    digest. Ensembles belong to no line.

    Raises:
        UsageError: If there is no family, one is given twice, or one holds no generation.
    """
    if not families:
        raise UsageError("A comparison needs at least one registered model, but got none; name one.")
    twice = [name for name, count in Counter(family.name for family in families).items() if count > 1]
    if twice:
        raise UsageError(f"A comparison takes a registered model once, but got '{twice[0]}' again; drop one.")
    lines: dict[str, list[Version]] = {}
    for family in families:
        lines |= _lines_of(family)
    return lines


def compare(names: Sequence[str], metric: str = "test_accuracy") -> Comparison:
    """Compare families by generation, over seeds: means, and differences from the first, paired by seed.

    Args:
        names: Names of registered models; one that holds several recipes has a line for each.
        metric: Key of ``Version.metrics``.

    Returns:
        An entry for each line and generation, with mean, deviation and 95 % interval of the difference.

    Raises:
        UsageError: If no name is given, one is given twice or holds no generation, or no version has the
            metric.
        NotFoundError: If the store holds no such model.
        IntegrityError: If tags of a version were altered.
        RegistryError: If the store does not answer.

    Examples:
        >>> lineage.compare(["digits", "digits-strict"]).entries[1].difference.mean
        -0.0006
    """
    return compare_lines(group_lines([read_family(name) for name in names]), metric)


def compare_lines(lines: Mapping[str, Sequence[Version]], metric: str = "test_accuracy") -> Comparison:
    """Compare ``lines`` generation by generation, the first one being the reference.

    Differences are paired by seed and have the 95 % confidence interval of the paired t-test, which assumes
    that they are normally distributed; with fewer than two pairs there is no interval. If several branches
    have the same line, generation and seed, the newest counts. The notes say what is left out.

    Args:
        lines: Versions of each line by its label, in the order to show.
        metric: Key of ``Version.metrics``.

    Raises:
        UsageError: If there is no line, or none that has ``metric``.
    """
    if not lines:
        raise UsageError("A comparison needs at least one line, but got none; name a registered model.")
    known = {name for versions in lines.values() for version in versions for name in version.metrics}
    if metric not in known:
        raise UsageError(
            f"The metric must be one that the versions hold ({', '.join(sorted(known)) or 'they hold none'}),"
            f" but got '{metric}'.{suggestion(metric, sorted(known))}"
        )
    notes: list[str] = []
    measured = {label: _by_generation(label, versions, metric, notes) for label, versions in lines.items()}
    entries = [
        _entry(label, generation, measured)
        for generation in sorted({generation for line in measured.values() for generation in line})
        for label in measured
        if generation in measured[label]
    ]
    return Comparison(metric, tuple(measured), tuple(entries), tuple(notes + _interval_notes(entries)))


def newest(versions: Iterable[Version]) -> list[Version]:
    """Return one version for each generation and seed, the newest where branches have several."""
    in_order = sorted(versions, key=lambda version: (version.created, version.version))
    return list({(version.generation, version.seed): version for version in in_order}.values())


def _lines_of(family: Family) -> dict[str, list[Version]]:
    """Return the lines of one registered model, in the order of their first versions."""
    by_digest: dict[str, list[Version]] = {}
    for version in family:
        if version.kind != "ensemble":
            by_digest.setdefault(version.recipe_digest, []).append(version)
    if not by_digest:
        raise UsageError(
            f"Registered model '{family.name}' must hold a generation to be compared, but holds none;"
            " grow one or leave it out."
        )
    if len(by_digest) == 1:
        return {family.name: next(iter(by_digest.values()))}
    by_id = {version.id: version for version in family}
    lines = {}
    for digest, versions in by_digest.items():
        root = by_id.get(versions[0].root, versions[0])
        traits = ", ".join(filter(None, (root.objective, digest[:8])))
        lines[f"{family.name} ({traits or 'no recipe'})"] = versions
    return lines


def _by_generation(
    label: str, versions: Iterable[Version], metric: str, notes: list[str]
) -> dict[int, BySeed]:
    """Return the values of one line by generation and seed; append to ``notes`` what is left out."""
    versions = list(versions)
    measured = [version for version in versions if math.isfinite(version.metrics.get(metric, math.nan))]
    kept: dict[int, BySeed] = {}
    for version in newest(measured):
        kept.setdefault(version.generation, {})[version.seed] = version.metrics[metric]
    num_unmeasured = len(versions) - len(measured)
    num_older = len(measured) - sum(map(len, kept.values()))
    if num_unmeasured:
        notes.append(f"{label}: left out {counted(num_unmeasured, 'version')} without a finite {metric}.")
    if num_older:
        notes.append(
            f"{label}: left out {counted(num_older, 'version')} for a newer one of the same seed and"
            " generation."
        )
    return kept


def _entry(label: str, generation: int, measured: Mapping[str, Mapping[int, BySeed]]) -> Entry:
    """Return one line in one generation, compared with the first line."""
    reference = next(iter(measured))
    values = measured[label][generation]
    difference = None if label == reference else _difference(values, measured[reference].get(generation, {}))
    return Entry(generation, label, Spread.of(list(values.values())), difference)


def _difference(line: BySeed, reference: BySeed) -> Difference:
    """Return the difference of two lines, paired by seed, with the interval of the paired t-test."""
    shared = sorted(line.keys() & reference.keys())
    num_unpaired = len(line.keys() ^ reference.keys())
    if not shared:
        return Difference(0, num_unpaired, None, None)
    values, references = ([values[seed] for seed in shared] for values in (line, reference))
    mean = statistics.fmean(map(operator.sub, values, references))
    if len(shared) == 1:
        return Difference(1, num_unpaired, mean, None)
    from scipy.stats import ttest_rel

    with warnings.catch_warnings():  # equal differences have a t of infinity, and an interval all the same
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = ttest_rel(values, references).confidence_interval(CONFIDENCE)
    return Difference(len(shared), num_unpaired, mean, (float(interval.low), float(interval.high)))


def _interval_notes(entries: Iterable[Entry]) -> list[str]:
    """Return why some difference has no interval."""
    if any(entry.difference is not None and entry.difference.interval is None for entry in entries):
        return ["An interval needs two seeds that both lines have; where there are fewer, none is given."]
    return []
