"""Data of a family's page: the family as plain values with a position for every node."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from lineage.display.page.render import single_file_page
from lineage.display.tree_layout import TreeLayout, lay_out_tree
from lineage.formats import unit_of
from lineage.registry.care.remove import Tombstone, read_tombstones
from lineage.registry.family.family import Family, Version
from lineage.registry.family.lookup import students_elsewhere
from lineage.registry.store.connection import find_experiment
from lineage.registry.store.progress import GrowingRun, read_growing, read_settings
from lineage.registry.store.reports import find_report
from lineage.registry.store.transfers import read_transfer_accuracies

REMOVED, OUTSIDE, GROWING = "removed", "outside", "growing"
"""Kinds of nodes that are not versions of the family; versions have their own kind."""

_FIRST_METRICS = (
    "test_accuracy",
    "ensemble_accuracy",
    "validation_accuracy",
    "test_calibration_error",
    "test_secondary_mass",
)
_MAX_RECIPES = 200  # whose settings are in a single file
_PER_VERSION = ("succession.seed", "data.root")  # settings that versions of one recipe may differ in

TransferAccuracies = Mapping[str, Mapping[tuple[str, str], float]]  # by model id; by data set and probe


@dataclass(frozen=True)
class PageContext:
    """Everything that the page shows of a family beside its versions.

    Attributes:
        experiment: Id of the experiment with the family's runs; "" if there is none.
        removed: Tombstones of removed versions.
        growing: Runs of generations in training.
        transfers: Test accuracies on other data sets, by model id, by data set and probe.
        report: Id of the run with the newest report of the family; "" if there is none.
        elsewhere: Students that are registered under other names.
    """

    experiment: str = ""
    removed: Sequence[Tombstone] = ()
    growing: Sequence[GrowingRun] = ()
    transfers: TransferAccuracies = field(default_factory=dict)
    report: str = ""
    elsewhere: Sequence[Version] = ()


def read_page_context(name: str) -> PageContext:
    """Read everything that the page shows of the family ``name`` beside its versions and those elsewhere.

    Raises:
        RegistryError: If the store does not answer.
    """
    return PageContext(
        find_experiment(name),
        read_tombstones(name),
        read_growing(name),
        read_transfer_accuracies(name),
        find_report(name),
    )


def family_html(family: Family, images: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the page of a family as a single HTML file that needs no server.

    Settings are included for the first 200 recipes of the family.

    Args:
        family: Family to show.
        images: Test images, as ``page_images`` returns them; none by default.

    Raises:
        RegistryError: If the store does not answer.
    """
    context = replace(read_page_context(family.name), elsewhere=students_elsewhere(family.name))
    document = family_document(family, context)
    runs = {version.recipe_digest: version.run_id for version in reversed(family.versions) if version.run_id}
    settings = {
        digest: {key: value for key, value in read_settings(run).values.items() if key not in _PER_VERSION}
        for digest, run in islice(runs.items(), _MAX_RECIPES)
    }
    return single_file_page(document, settings, images)


def family_document(family: Family, context: PageContext | None = None) -> dict[str, Any]:
    """Return a family as plain values, for the page's script.

    Nodes are versions, removed versions with a tombstone, generations in training, and teachers, members or
    students that are in another family or missing.

    Returns:
        ``nodes`` with their parents and positions, ``folds``, titles of ``columns``, and ``metrics`` with
        their units; the ``values`` of every node are in the order of ``metrics``.
    """
    context = context or PageContext()
    nodes, parents, scores = _collect_nodes(family, context)
    layout = lay_out_tree(parents, scores)
    metrics = _describe_metrics(family, context.transfers)
    return {
        "name": family.name,
        "experiment": context.experiment,
        "report": context.report,
        "metrics": metrics,
        "columns": _column_titles(nodes, layout),
        "nodes": [
            {"id": node}
            | {key: value for key, value in fields.items() if key != "metrics"}
            | asdict(layout.positions[node])
            | {"parents": parents[node]}
            | {"values": _values(fields.get("metrics", {}), (metric["name"] for metric in metrics))}
            for node, fields in nodes.items()
        ],
        "folds": [asdict(fold) for fold in layout.folds],
    }


def _collect_nodes(
    family: Family, context: PageContext
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]], dict[str, float]]:
    """Return the nodes of the drawing by id: their fields, their parents, and their scores among siblings."""
    nodes: dict[str, dict[str, Any]] = {}
    parents: dict[str, list[str]] = {}
    scores: dict[str, float] = {}
    tombstones = [tomb for tomb in context.removed if family.with_id(tomb.version.id) is None]
    removed = {tomb.version.id: tomb.removed for tomb in tombstones}
    versions = sorted([*family, *(tomb.version for tomb in tombstones)], key=lambda version: version.version)
    own = {version.id for version in versions}
    for version in versions:
        for parent in version.parents:
            if parent not in own and parent not in nodes:
                nodes[parent] = {"kind": OUTSIDE}
                parents[parent] = []
        nodes[version.id] = _version_fields(version, removed.get(version.id), context.transfers)
        parents[version.id] = list(version.parents)
        scores[version.id] = bool(version.aliases) + version.metrics.get("validation_accuracy", 0.0)
    for student in context.elsewhere:
        nodes[student.id] = {"kind": OUTSIDE}
        parents[student.id] = list(student.parents)
    by_run = {version.run_id: version.id for version in versions if version.run_id}
    for run in context.growing:
        node = f"run/{run.run_id}"
        nodes[node] = {"kind": GROWING} | run.to_json()
        teacher = by_run.get(run.teacher_run_id)
        parents[node] = [] if teacher is None else [teacher]
        scores[node] = 2.0  # above every version: a reader looks for it
    return nodes, parents, scores


def _version_fields(version: Version, removed: int | None, transfers: TransferAccuracies) -> dict[str, Any]:
    """Return the fields of a version's node; ``removed`` is the time of its removal."""
    accuracies = transfers.get(version.model_id, {})
    return {
        "kind": version.kind if removed is None else REMOVED,
        "version": version.version,
        "generation": version.generation,
        "objective": version.objective,
        "seed": version.seed,
        "aliases": list(version.aliases),
        "recipe": version.recipe_digest,
        "run": version.run_id,
        "model": version.model_id,
        "created": version.created,
        "metrics": version.metrics | {_transfer_metric(*kind): value for kind, value in accuracies.items()},
    } | ({} if removed is None else {"removed": removed})


def _describe_metrics(family: Family, transfers: TransferAccuracies) -> list[dict[str, Any]]:
    """Return the label and the unit of each metric: the usual ones first, then transfers, then all others."""
    recorded = {name for version in family for name in version.metrics}
    usual = [name for name in _FIRST_METRICS if name in recorded]
    kinds = sorted({kind for accuracies in transfers.values() for kind in accuracies})
    labels = {name: name.replace("_", " ") for name in usual}
    labels |= {_transfer_metric(*kind): f"{kind[0]} accuracy ({kind[1]})" for kind in kinds}
    labels |= {name: name.replace("_", " ") for name in sorted(recorded - set(usual))}
    metrics = []
    for name, label in labels.items():
        unit = unit_of(name)
        metrics.append(
            {
                "name": name,
                "label": label,
                "scale": unit.scale,
                "digits": int(unit.digits[1:-1]),
                "fixed": unit.digits.endswith("f"),
                "sign": unit.sign,
                "better": unit.better,
            }
        )
    return metrics


def _transfer_metric(data: str, probe: str) -> str:
    return f"transfer/{data}/{probe}/accuracy"


def _values(recorded: Mapping[str, float], names: Iterable[str]) -> list[float | None]:
    """Return a node's values of the metrics ``names``; None for those it lacks, and for infinity and NaN."""
    values = (recorded.get(name, math.nan) for name in names)
    return [value if math.isfinite(value) else None for value in values]


def _column_titles(nodes: Mapping[str, Mapping[str, Any]], layout: TreeLayout) -> list[str]:
    """Return ``generation 2`` for the first column that holds no other generation, and "" for all others."""
    generations: list[set[int]] = [set() for _ in range(layout.num_columns)]
    for node, position in layout.positions.items():
        fields = nodes[node]
        if "generation" in fields and fields["kind"] != "ensemble":
            generations[position.column].add(fields["generation"])
    titled: set[int] = set()
    titles: list[str] = []
    for found in generations:
        only = found.pop() if len(found) == 1 else None
        titles.append("" if only is None or only in titled else f"generation {only}")
        titled |= set() if only is None else {only}
    return titles
