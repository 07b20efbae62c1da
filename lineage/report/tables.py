"""Tables of generations, seeds, one version, and comparisons; whoever calls prints them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter

from rich.table import Column, Table

from lineage.formats import MISSING, change, counted, quantity, spread, unit_of_changes
from lineage.registry.family.family import Version
from lineage.registry.store.transfers import Transfer
from lineage.report.comparison import CONFIDENCE, Comparison, Difference, Spread
from lineage.report.table_style import add_row as _add_row
from lineage.report.table_style import new_table as _table
from lineage.report.table_style import numeric as _numeric


def generations_table(versions: Sequence[Version], teachers: Mapping[str, Version]) -> Table:
    """What was grown, one row a version: the last word of ``lineage grow``.

    Args:
        versions: In the order to show.
        teachers: By id, ``name/version``, those of other families too; without one, its accuracy is missing.
    """
    names = sorted({version.name for version in versions})
    of_one_model = len(names) == 1
    seeds = sorted({version.seed for version in versions})
    table = _table(
        *_numeric(
            "generation",
            "test\naccuracy",
            "teacher",
            "top\nprob.",
            "secondary\nmass",
            "calib.\nerror",
            "ensemble\nso far",
            "version",
        ),
        title=f"{names[0]}, seed {', '.join(map(str, seeds))}" if of_one_model else "",
    )
    for version in versions:
        teacher = teachers.get(version.teacher or "")
        _add_row(
            table,
            str(version.generation),
            _metric(version, "test_accuracy"),
            MISSING if teacher is None else _metric(teacher, "test_accuracy"),
            _metric(version, "test_top_probability"),
            _metric(version, "test_secondary_mass"),
            _metric(version, "test_calibration_error"),
            _metric(version, "ensemble_accuracy"),
            f"v{version.version}" if of_one_model else version.id,
        )
    return table


def seeds_table(groups: Sequence[Sequence[Version]]) -> Table:
    """Mean ± sample standard deviation (divisor n - 1) over seeds, one row a generation.

    A cell to which not every seed contributes says how many do.

    Args:
        groups: For each seed, the versions of its chain.
    """
    metrics = {
        "test accuracy": "test_accuracy",
        "top probability": "test_top_probability",
        "ensemble so far": "ensemble_accuracy",
    }
    seeds = counted(len(groups), "seed")
    mean = "mean ± sample standard deviation, " if len(groups) > 1 else ""
    table = _table(*_numeric("generation", *metrics), caption=[f"{mean}n = {seeds}"])
    by_generation: dict[int, list[Version]] = {}
    for version in (version for group in groups for version in group):
        by_generation.setdefault(version.generation, []).append(version)
    for generation, versions in sorted(by_generation.items()):
        cells = (_mean(versions, metric, len(groups)) for metric in metrics.values())
        _add_row(table, str(generation), *cells)
    return table


def version_table(version: Version) -> Table:
    """Everything that the registry tells of one version, for ``lineage show``."""
    created = datetime.fromtimestamp(version.created / 1000, tz=UTC)
    fields = {
        "kind": version.kind,
        "generation": str(version.generation),
        "teacher": version.teacher or "none",
        "root": version.root,
        "objective": version.objective,
        "seed": str(version.seed),
        "aliases": " ".join(f"@{alias}" for alias in version.aliases),
        "recipe digest": version.recipe_digest,
        "key": version.key,
        "weights sha256": version.weights_sha256,
        "model id": version.model_id,
        "run id": version.run_id,
        "created": f"{created:%Y-%m-%d %H:%M:%S} UTC" if version.created else "",
    }
    if version.members:
        fields["members"] = ", ".join(f"{member.id} ({member.weight:.3f})" for member in version.members)
    table = _table("field", Column("value", overflow="fold"), title=version.uri)
    for name, value in fields.items():
        _add_row(table, name, value or MISSING)
    table.add_section()
    for name in sorted(version.metrics):
        _add_row(table, name, _metric(version, name))
    return table


def evaluation_table(measured: Mapping[str, float], recorded: Mapping[str, float]) -> Table:
    """What an evaluation measured beside what the registry holds under the same names.

    Differences are measured minus recorded, as plain numbers (of shares, not in percent) and with the digits
    that tell rounding from change; 0 means equal to the last bit.
    """
    table = _table("metric", *_numeric("measured", "recorded", "difference"))
    for name, value in measured.items():
        known = recorded.get(name)
        difference = MISSING if known is None else f"{value - known:+.1e}" if value != known else "0"
        _add_row(table, name, quantity(name, value), quantity(name, known), difference)
    return table


def ensemble_table(
    members: Sequence[Version],
    weights: Sequence[float],
    alone: Sequence[Mapping[str, float]],
    prefixes: Sequence[Mapping[str, float]],
) -> Table:
    """Each member alone, and the ensemble of the members down to its row.

    Args:
        members: In order.
        weights: One a member, summing to 1.
        alone: The metrics of each member.
        prefixes: The metrics of the ensembles of the first, the first two, … members.
    """
    measures = ("accuracy", "calibration_error", "cross_entropy")
    alone_titles = ("\naccuracy", "calib.\nerror", "cross-\nentropy")
    so_far_titles = ("accuracy\nso far", "error\nso far", "entropy\nso far")
    table = _table("member", *_numeric("generation", "weight", *alone_titles, *so_far_titles))
    for member, weight, own, so_far in zip(members, weights, alone, prefixes, strict=True):
        cells = [quantity(f"test_{name}", metrics[name]) for metrics in (own, so_far) for name in measures]
        _add_row(table, member.id, str(member.generation), f"{weight:.3f}", *cells)
    return table


def transfer_table(results: Sequence[Transfer]) -> Table:
    """Versions on another data set, one row a generation: the last word of ``lineage transfer``.

    Args:
        results: Of one target and one probe, in the order to show; at least one.
    """
    first = results[0]
    names = {result.version.name for result in results}
    title = f"{', '.join(sorted(names))} to {first.target}, {first.probe}, seed {first.seed}"
    table = _table(
        *_numeric(
            "generation",
            "own test\naccuracy",
            "transfer\naccuracy",
            "validation\naccuracy",
            *first.chosen,
            "time",
            "version",
        ),
        title=title,
        caption=list(dict.fromkeys(note for result in results for note in result.notes)),
    )
    for result in results:
        version = result.version
        accuracies = ("transfer_accuracy", "transfer_validation_accuracy")
        _add_row(
            table,
            str(version.generation),
            _metric(version, "test_accuracy"),
            *(quantity(name, result.metrics.get(name)) for name in accuracies),
            *(f"{value:g}" for value in result.chosen.values()),
            quantity("transfer_seconds", result.metrics.get("transfer_seconds")),
            f"v{version.version}" if len(names) == 1 else version.id,
        )
    return table


def difference_tables(
    titles: tuple[str, str],
    recipe: Mapping[str, tuple[object, object]],
    metrics: Mapping[str, tuple[float | None, float | None]],
) -> list[Table]:
    """Two versions side by side: the settings that differ, and all metrics.

    Args:
        titles: What the versions are called.
        recipe: Differing keys with both values.
        metrics: Names with both values; None where one is missing.
    """
    settings = _table("setting", *titles)
    for key, values in recipe.items():
        _add_row(settings, key, *(MISSING if value is None else str(value) for value in values))
    numbers = _table("metric", *_numeric(*titles))
    for name, pair in metrics.items():
        _add_row(numbers, name, *(quantity(name, value) for value in pair))
    return [table for table in (settings, numbers) if table.row_count]


def comparison_table(comparison: Comparison) -> Table:
    """Lines side by side: a section a generation, differences from the first line with their intervals."""
    metric = comparison.metric
    unit = unit_of_changes(metric)
    differences = f"Differences from {comparison.reference} over the seeds of both"
    differences += f", in {unit}." if unit else "."
    several = len(comparison.lines) > 1
    table = _table(
        *_numeric("generation"),
        Column("line", overflow="fold"),
        *_numeric("seeds", "mean ±\ndeviation"),
        *(_numeric("difference", f"{100 * CONFIDENCE:.0f} %\ninterval", "pairs") if several else ()),
        title=metric,
        caption=[*([differences] if several else ()), *comparison.notes],
    )
    for generation, entries in groupby(comparison.entries, key=attrgetter("generation")):
        for place, entry in enumerate(entries):
            mean = spread(metric, entry.spread.mean, entry.spread.deviation)
            cells = ("" if place else str(generation), entry.line, str(entry.spread.n), mean)
            _add_row(table, *cells, *(_difference_cells(metric, entry.difference) if several else ()))
        if several:
            table.add_section()
    return table


def _difference_cells(metric: str, difference: Difference | None) -> tuple[str, str, str]:
    """Difference, interval, and pairs of how many seeds; empty for the reference."""
    if difference is None:
        return "", "", ""
    interval = MISSING
    if difference.interval is not None:
        low, high = difference.interval
        interval = f"{change(metric, low)} to {change(metric, high)}"
    seeds = difference.pairs + difference.unpaired
    return change(metric, difference.mean), interval, f"{difference.pairs} of {seeds}"


def _mean(versions: Iterable[Version], metric: str, num_seeds: int) -> str:
    """Mean and deviation of those of ``versions`` that have ``metric``; their number where seeds lack it."""
    values = [version.metrics[metric] for version in versions if metric in version.metrics]
    if not values:
        return MISSING
    found = Spread.of(values)
    fewer = "" if found.n == num_seeds else f" (n={found.n})"
    return spread(metric, found.mean, found.deviation) + fewer


def _metric(version: Version, name: str) -> str:
    return quantity(name, version.metrics.get(name))
