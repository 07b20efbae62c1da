"""Families side by side: means over seeds, and differences paired by seed.

Lines of one seed share splits and the order of the data, so that differences within pairs hold less noise
than the difference of two means.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lineage.errors import UsageError, suggestion
from lineage.formats import counted
from lineage.registry.family.family import Family, Version
from lineage.report.comparison import CONFIDENCE, Comparison, Difference, Entry, Spread

BySeed = dict[int, float]


def group_lines(families: Sequence[Family]) -> dict[str, list[Version]]:
    """Versions by line: one line for each recipe of each registered model, over all its seeds.

    A line is named after its registered model where that holds one recipe. Where it holds several, their
    lines are ``name (objective, digest)``, with the root's objective and the first 8 letters of the recipe's
    digest. Ensembles stand in no line.

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


def compare(lines: Mapping[str, Sequence[Version]], metric: str = "test_accuracy") -> Comparison:
    """Set ``lines`` side by side by generation, and the others against the first by seed.

    Differences have a 95 % confidence interval by Student's t, which takes them as normally distributed; with
    fewer than two pairs there is none. Where branches share a line, a generation and a seed, the newest
    counts. The notes say what is left out.

    Args:
        lines: All versions of each line by its label, in the order to show.
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


def _lines_of(family: Family) -> dict[str, list[Version]]:
    """The lines of one registered model, in the order of their first versions."""
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
    """The values of one line that count, by generation and seed; ``notes`` are told what does not."""
    kept: dict[int, BySeed] = {}
    unmeasured = older = 0
    for version in sorted(versions, key=lambda version: (version.created, version.version)):
        value = version.metrics.get(metric, math.nan)
        if not math.isfinite(value):
            unmeasured += 1
            continue
        seeds = kept.setdefault(version.generation, {})
        older += version.seed in seeds
        seeds[version.seed] = value
    if unmeasured:
        notes.append(f"{label}: left out {counted(unmeasured, 'version')} without a finite {metric}.")
    if older:
        notes.append(
            f"{label}: left out {counted(older, 'version')} for a newer one of the same seed and generation."
        )
    return kept


def _entry(label: str, generation: int, measured: Mapping[str, Mapping[int, BySeed]]) -> Entry:
    """One line in one generation, against the first line."""
    reference = next(iter(measured))
    values = measured[label][generation]
    difference = None if label == reference else _difference(values, measured[reference].get(generation, {}))
    return Entry(generation, label, Spread.of(list(values.values())), difference)


def _difference(line: BySeed, reference: BySeed) -> Difference:
    """Paired by seed, with Student's t interval of the mean over n pairs: mean ± t(n - 1) s / √n."""
    shared = sorted(line.keys() & reference.keys())
    unpaired = len(line.keys() ^ reference.keys())
    if not shared:
        return Difference(0, unpaired, None, None)
    spread = Spread.of([line[seed] - reference[seed] for seed in shared])
    if spread.deviation is None:
        return Difference(1, unpaired, spread.mean, None)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, spread.n - 1)) * spread.deviation / math.sqrt(spread.n)
    return Difference(spread.n, unpaired, spread.mean, (spread.mean - half, spread.mean + half))


def _interval_notes(entries: Iterable[Entry]) -> list[str]:
    """Why some difference has no interval."""
    if any(entry.difference is not None and entry.difference.interval is None for entry in entries):
        return ["An interval needs two seeds that both lines have; where there are fewer, none is given."]
    return []
