"""Tables of generations, seeds, versions and comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter

from rich.table import Column, Table

from lineage.display.comparison import CONFIDENCE, Comparison, Difference, Spread
from lineage.display.table_style import add_row, new_table, numeric
from lineage.formats import MISSING, change, counted, quantity, spread, unit_of_changes
from lineage.registry.family.family import Version
from lineage.registry.family.overview import FamilyOverview
from lineage.registry.store.transfers import Transfer

GENERATIONS_LEGEND = """\
top prob.: mean highest probability; secondary mass: mean probability of ranks 2–K
ensemble so far: accuracy of a generation together with all before it"""
"""Explanation of the headers of ``generations_table`` and ``seeds_table``."""


def generations_table(versions: Sequence[Version], teachers: Mapping[str, Version]) -> Table:
    """Return the table that ``lineage grow`` prints: one row for each version.

    Args:
        versions: Versions, in the order to show.
        teachers: Teachers by id, ``name/version``; the accuracy of one that is not among them is missing.
    """
    names = sorted({version.name for version in versions})
    of_one_model = len(names) == 1
    seeds = sorted({version.seed for version in versions})
    table = new_table(
        *numeric(
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
        add_row(
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
    """Return a table of mean ± sample standard deviation (divisor n - 1) over seeds, by generation.

    A cell to which not every seed contributes holds the number of those that do.

    Args:
        groups: Versions of each seed's succession.
    """
    metrics = {
        "test accuracy": "test_accuracy",
        "top probability": "test_top_probability",
        "ensemble so far": "ensemble_accuracy",
    }
    seeds = counted(len(groups), "seed")
    mean = "mean ± sample standard deviation, " if len(groups) > 1 else ""
    table = new_table(*numeric("generation", *metrics), caption=[f"{mean}n = {seeds}"])
    by_generation: dict[int, list[Version]] = {}
    for version in (version for group in groups for version in group):
        by_generation.setdefault(version.generation, []).append(version)
    for generation, versions in sorted(by_generation.items()):
        cells = (_mean(versions, metric, len(groups)) for metric in metrics.values())
        add_row(table, str(generation), *cells)
    return table


def ends_table(ends: Sequence[tuple[int, str]]) -> Table:
    """Return a table of how the successions of several seeds ended.

    Args:
        ends: Seed of each, and why it failed; "" for one that is done.
    """
    table = new_table(*numeric("seed"), "outcome")
    for seed, reason in ends:
        add_row(table, str(seed), f"failed: {reason}" if reason else "done")
    return table


def families_table(families: Sequence[FamilyOverview]) -> Table:
    """Return the table that ``lineage ls`` prints: one row for each family."""
    table = new_table("family", *numeric("newest", "best", "test\naccuracy"), "last changed")
    for family in families:
        best = family.best
        add_row(
            table,
            family.name,
            f"v{family.newest}" if family.newest else MISSING,
            f"v{best.version}" if best else MISSING,
            _metric(best, "test_accuracy") if best else MISSING,
            _time(family.updated),
        )
    return table


def version_table(version: Version, settings: Mapping[str, str]) -> Table:
    """Return the table that ``lineage show`` prints: all that the registry holds of one version.

    Args:
        version: Version.
        settings: Settings that it was grown with, by dotted key.
    """
    fields = {
        "kind": version.kind,
        "generation": str(version.generation),
        "teacher": version.teacher or "none",
        "root": version.root,
        "objective": version.objective,
        **({"network": version.network} if version.network else {}),
        "seed": str(version.seed),
        "aliases": " ".join(f"@{alias}" for alias in version.aliases),
        "recipe digest": version.recipe_digest,
        "key": version.key,
        "weights sha256": version.weights_sha256,
        "model id": version.model_id,
        "run id": version.run_id,
        "created": _time(version.created) if version.created else "",
    }
    if version.members:
        fields["members"] = ", ".join(f"{member.id} ({member.weight:.3f})" for member in version.members)
    table = new_table("field", Column("value", overflow="fold"), title=version.uri)
    for name, value in fields.items():
        add_row(table, name, value or MISSING)
    table.add_section()
    for name in sorted(version.metrics):
        add_row(table, name, _metric(version, name))
    table.add_section()
    for name, value in settings.items():
        add_row(table, name, value)
    return table


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"


def evaluation_table(measured: Mapping[str, float], recorded: Mapping[str, float]) -> Table:
    """Return a table of measured metrics beside those that the version was registered with.

    Differences are measured minus recorded, as plain numbers (shares, not percent); 0 means equal to the last
    bit, so that rounding can be told from change.
    """
    table = new_table("metric", *numeric("measured", "recorded", "difference"))
    for name, value in measured.items():
        known = recorded.get(name)
        difference = MISSING if known is None else f"{value - known:+.1e}" if value != known else "0"
        add_row(table, name, quantity(name, value), quantity(name, known), difference)
    return table


def ensemble_table(
    members: Sequence[Version],
    weights: Sequence[float],
    alone: Sequence[Mapping[str, float]],
    prefixes: Sequence[Mapping[str, float]],
) -> Table:
    """Return a table of the members, each alone and as the ensemble of the members down to its row.

    Args:
        members: Members, in the order of the ensemble.
        weights: Weight of each member; they sum to 1.
        alone: Metrics of each member.
        prefixes: Metrics of the ensembles of the first, the first two, … members.
    """
    measures = ("accuracy", "calibration_error", "cross_entropy")
    alone_titles = ("\naccuracy", "calib.\nerror", "cross-\nentropy")
    so_far_titles = ("accuracy\nso far", "error\nso far", "entropy\nso far")
    table = new_table("member", *numeric("generation", "weight", *alone_titles, *so_far_titles))
    for member, weight, own, so_far in zip(members, weights, alone, prefixes, strict=True):
        cells = [quantity(f"test_{name}", metrics[name]) for metrics in (own, so_far) for name in measures]
        add_row(table, member.id, str(member.generation), f"{weight:.3f}", *cells)
    return table


def transfer_table(results: Sequence[Transfer]) -> Table:
    """Return the table that ``lineage transfer`` prints: versions on another data set, one row each.

    Args:
        results: Results of one target and one probe, in the order to show; at least one.
    """
    first = results[0]
    names = {result.version.name for result in results}
    title = f"{', '.join(sorted(names))} to {first.target}, {first.probe}, seed {first.seed}"
    table = new_table(
        *numeric(
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
        add_row(
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
    """Return tables of two versions side by side: the settings that differ, and all metrics.

    Args:
        titles: Headers of the two versions.
        recipe: Recipe keys that differ, with both values.
        metrics: Names of metrics with both values; None where one is missing.
    """
    settings = new_table("setting", *titles)
    for key, values in recipe.items():
        add_row(settings, key, *(MISSING if value is None else str(value) for value in values))
    numbers = new_table("metric", *numeric(*titles))
    for name, pair in metrics.items():
        add_row(numbers, name, *(quantity(name, value) for value in pair))
    return [table for table in (settings, numbers) if table.row_count]


def comparison_table(comparison: Comparison) -> Table:
    """Return a table of lines by generation, with their differences from the first line and the intervals."""
    metric = comparison.metric
    unit = unit_of_changes(metric)
    differences = f"Differences from {comparison.reference} over the seeds of both"
    differences += f", in {unit}." if unit else "."
    several = len(comparison.lines) > 1
    table = new_table(
        *numeric("generation"),
        Column("line", overflow="fold"),
        *numeric("seeds", "mean ±\ndeviation"),
        *(numeric("difference", f"{100 * CONFIDENCE:.0f} %\ninterval", "pairs") if several else ()),
        title=metric,
        caption=[*([differences] if several else ()), *comparison.notes],
    )
    for generation, entries in groupby(comparison.entries, key=attrgetter("generation")):
        for place, entry in enumerate(entries):
            mean = spread(metric, entry.spread.mean, entry.spread.deviation)
            cells = ("" if place else str(generation), entry.line, str(entry.spread.n), mean)
            add_row(table, *cells, *(_difference_cells(metric, entry.difference) if several else ()))
        if several:
            table.add_section()
    return table


def _difference_cells(metric: str, difference: Difference | None) -> tuple[str, str, str]:
    """Return the cells difference, interval, and paired of all seeds; empty for the reference."""
    if difference is None:
        return "", "", ""
    interval = MISSING
    if difference.interval is not None:
        low, high = difference.interval
        interval = f"{change(metric, low)} to {change(metric, high)}"
    seeds = difference.pairs + difference.unpaired
    return change(metric, difference.mean), interval, f"{difference.pairs} of {seeds}"


def _mean(versions: Iterable[Version], metric: str, num_seeds: int) -> str:
    """Return mean ± deviation over the versions that have ``metric``, and their number if some do not."""
    values = [version.metrics[metric] for version in versions if metric in version.metrics]
    if not values:
        return MISSING
    over_seeds = Spread.of(values)
    fewer = "" if over_seeds.n == num_seeds else f" (n={over_seeds.n})"
    return spread(metric, over_seeds.mean, over_seeds.deviation) + fewer


def _metric(version: Version, name: str) -> str:
    return quantity(name, version.metrics.get(name))
