"""A family as its page draws it: plain values, placed; and the page with those values inside, as one file."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from itertools import islice
from typing import Any

from lineage.formats import unit_of
from lineage.registry.care.remove import Tombstone, read_tombstones
from lineage.registry.family.family import Family, Version
from lineage.registry.store.connection import find_experiment
from lineage.registry.store.progress import GrowingRun, read_growing, read_settings
from lineage.registry.store.transfers import read_transfer_accuracies
from lineage.report.tree_layout import Placement, place

PAGE, STYLE, SCRIPT = "page.html", "page.css", "page.js"
REMOVED, OUTSIDE, GROWING = "removed", "outside", "growing"

_FIRST_METRICS = (
    "test_accuracy",
    "ensemble_accuracy",
    "validation_accuracy",
    "test_calibration_error",
    "test_secondary_mass",
)
_RECIPES = 200
_OF_ONE = ("succession.seed", "data.root")  # which versions of one recipe may differ in
_STYLE_LINK = '<link rel="stylesheet" href="lineage/page.css">'
_SCRIPT_LINK = '<script type="module" src="lineage/page.js"></script>'

Accuracies = Mapping[str, Mapping[tuple[str, str], float]]  # by model id, by target and probe


@dataclass(frozen=True)
class PageContext:
    """What there is to show of a family beside its versions.

    Attributes:
        experiment: Id of the one that holds the family's runs; "" where there is none.
        removed: Tombstones.
        growing: Generations that are being trained.
        transfers: Test accuracies on other data sets, by model id, by target and probe.
    """

    experiment: str = ""
    removed: Sequence[Tombstone] = ()
    growing: Sequence[GrowingRun] = ()
    transfers: Accuracies = field(default_factory=dict)


def read_surroundings(name: str) -> PageContext:
    """What the store holds of the family ``name`` beside its versions.

    Raises:
        RegistryError: If the store does not answer.
    """
    return PageContext(
        find_experiment(name), read_tombstones(name), read_growing(name), read_transfer_accuracies(name)
    )


def page_asset(name: str) -> str:
    """The text of one of the page's three files."""
    return files("lineage.report").joinpath("page", name).read_text(encoding="utf-8")


def family_document(family: Family, around: PageContext | None = None) -> dict[str, Any]:
    """What the page is told of a family.

    Every version is a node, and so is what was removed and left a tombstone, what is being trained, and each
    teacher or member that stands in another family or is missing.

    Returns:
        Plain values: ``nodes`` with column, row and parents, ``folds``, ``metrics`` with their units, in
        whose order stand the ``values`` of every node.
    """
    around = around or PageContext()
    nodes, parents, worth = _nodes(family, around)
    placement = place(parents, worth)
    metrics = _metrics(family, around.transfers)
    return {
        "name": family.name,
        "experiment": around.experiment,
        "metrics": list(metrics.values()),
        "columns": _column_titles(nodes, placement),
        "nodes": [
            {"id": node}
            | words
            | asdict(placement.spots[node])
            | {"parents": parents[node], "values": _values(words, metrics)}
            for node, words in nodes.items()
        ],
        "folds": [asdict(fold) for fold in placement.folds],
    }


def family_html(family: Family) -> str:
    """The family's page as one file, with what the store holds beside its versions.

    Settings come along for the first 200 recipes that stand in the family.

    Raises:
        RegistryError: If the store does not answer.
    """
    document = family_document(family, read_surroundings(family.name))
    runs = {version.recipe_digest: version.run_id for version in reversed(family.versions) if version.run_id}
    settings = {
        digest: {key: value for key, value in read_settings(run).values.items() if key not in _OF_ONE}
        for digest, run in islice(runs.items(), _RECIPES)
    }
    return html(document, settings)


def html(document: Mapping[str, Any], settings: Mapping[str, Mapping[str, str]]) -> str:
    """The page as one file that needs no server: style, script and data inside, and nothing else runs.

    Args:
        document: Of ``family_document``.
        settings: What versions were grown with, by the digest of their recipe.
    """
    style, script = page_asset(STYLE), page_asset(SCRIPT)
    data = json.dumps({"family": document, "settings": settings}, ensure_ascii=False)
    data = data.replace("<", "\\u003c")  # inside a script element "<" could end it
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)};"
        " base-uri 'none'; form-action 'none'"
    )
    return (
        page_asset(PAGE)
        .replace(
            _STYLE_LINK,
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>',
        )
        .replace(
            _SCRIPT_LINK,
            f'<script type="application/json" id="data">{data}</script>\n'
            f'<script type="module">{script}</script>',
        )
    )


def _hash(text: str) -> str:
    """How a content security policy names an inline text that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _nodes(
    family: Family, around: PageContext
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]], dict[str, float]]:
    """What is drawn: what is said of each node, its parents, and its worth among siblings."""
    nodes: dict[str, dict[str, Any]] = {}
    parents: dict[str, list[str]] = {}
    worth: dict[str, float] = {}
    gone = [stone for stone in around.removed if family.with_id(stone.version.id) is None]
    buried = {stone.version.id: stone.removed for stone in gone}
    versions = sorted([*family, *(stone.version for stone in gone)], key=lambda version: version.version)
    held = {version.id for version in versions}
    for version in versions:
        for outside in version.parents:
            if outside not in held and outside not in nodes:
                nodes[outside] = {"kind": OUTSIDE}
                parents[outside] = []
        nodes[version.id] = _told(version, buried.get(version.id), around.transfers)
        parents[version.id] = list(version.parents)
        worth[version.id] = bool(version.aliases) + version.metrics.get("validation_accuracy", 0.0)
    by_run = {version.run_id: version.id for version in versions if version.run_id}
    for growing in around.growing:
        node = f"run/{growing.run_id}"
        nodes[node] = {"kind": GROWING} | growing.to_json()
        teacher = by_run.get(growing.teacher_run_id)
        parents[node] = [] if teacher is None else [teacher]
        worth[node] = 2.0
    return nodes, parents, worth


def _told(version: Version, removed: int | None, transfers: Accuracies) -> dict[str, Any]:
    """What the page is told of one version."""
    elsewhere = transfers.get(version.model_id, {})
    told = {
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
        "metrics": version.metrics | {_transfer_metric(*kind): value for kind, value in elsewhere.items()},
    }
    return told if removed is None else told | {"removed": removed}


def _metrics(family: Family, transfers: Accuracies) -> dict[str, dict[str, Any]]:
    """How each metric is called and written: the usual ones first, then transfers, then all others."""
    named = {name for version in family for name in version.metrics}
    usual = [name for name in _FIRST_METRICS if name in named]
    kinds = sorted({kind for of_one in transfers.values() for kind in of_one})
    elsewhere = {_transfer_metric(*kind): f"{kind[0]} accuracy ({kind[1]})" for kind in kinds}
    others = sorted(named - set(usual))
    labels = {name: name.replace("_", " ") for name in usual}
    labels |= elsewhere | {name: name.replace("_", " ") for name in others}
    found = {}
    for name, label in labels.items():
        unit = unit_of(name)
        found[name] = {
            "name": name,
            "label": label,
            "scale": unit.scale,
            "digits": int(unit.digits[1:-1]),
            "fixed": unit.digits.endswith("f"),
            "sign": unit.sign,
            "better": unit.better,
        }
    return found


def _transfer_metric(target: str, probe: str) -> str:
    return f"transfer/{target}/{probe}/accuracy"


def _values(words: dict[str, Any], metrics: Iterable[str]) -> list[float | None]:
    """A node's numbers in the order of ``metrics``; they leave its words."""
    own: dict[str, float] = words.pop("metrics", {})
    return [own[name] if name in own and math.isfinite(own[name]) else None for name in metrics]


def _column_titles(nodes: Mapping[str, Mapping[str, Any]], placement: Placement) -> list[str]:
    """``generation 2`` above the first column whose nodes are all of it; nothing above a mixed one."""
    generations: list[set[int]] = [set() for _ in range(placement.num_columns)]
    for node, spot in placement.spots.items():
        words = nodes[node]
        if "generation" in words and words["kind"] != "ensemble":
            generations[spot.column].add(words["generation"])
    titles: list[str] = []
    for found in generations:
        title = f"generation {found.pop()}" if len(found) == 1 else ""
        titles.append("" if title in titles else title)
    return titles
