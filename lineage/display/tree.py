"""A family as a tree for a terminal, as a graph for Graphviz and Mermaid, and as plain values.

Walks are loops, not recursion, so that chains of any length can be drawn. A circle, which only edited tags
can contain, is drawn once.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from rich.text import Text
from rich.tree import Tree

from lineage.formats import change, counted, printable, quantity
from lineage.registry.care.remove import Tombstone
from lineage.registry.family.family import Family, Version

_DEPTH = 10
"""Deepest level of indentation, which leaves 50 of 80 columns; deeper versions start at the left again."""

_GUIDES = ("   ", "│  ", "├─ ", "└─ ")
_ASCII_GUIDES = ("   ", "|  ", "+- ", "`- ")

_REMOVED = "removed"

_ENTITIES = str.maketrans({character: f"#{ord(character)};" for character in "#\"&'<>`{\\"})
"""Mermaid's escapes for characters that its labels read as HTML, entities, Markdown or directives."""

Fragments = list[tuple[str, str]]  # text, style


def rich_tree(family: Family, removed: Sequence[Tombstone] = (), elsewhere: Sequence[Version] = ()) -> Tree:
    """Return a tree for the terminal: one line for each version, below that of its teacher.

    Students under other names stand below their teachers by their whole names. Removed versions that left a
    tombstone are drawn in their place. A version at the left that has a teacher names it: the teacher is of
    another family, is missing, or is further up in a branch that is deeper than ``_DEPTH``. An ensemble names
    its members. Names are literal text, never markup.
    """
    title = [(family.name, "bold"), (counted(len(family), "version"), "dim")]
    family, num_removed = _with_others(family, removed, elsewhere)
    tree = Tree(_line([*title, (f"{num_removed} removed" if num_removed else "", "dim")]))
    tree.ASCII_GUIDES, tree.TREE_GUIDES = _ASCII_GUIDES, [_GUIDES] * len(tree.TREE_GUIDES)
    drawn: set[str] = set()
    for top in _tops(family):
        pending = [(top, tree, 0)]
        while pending:
            version, above, depth = pending.pop()
            if version.id in drawn:
                continue
            drawn.add(version.id)
            folded = depth == _DEPTH
            fragments = list(chain(*_rows(family, version)))
            if folded or depth == 0:
                fragments += _teacher(family, version)
            fragments += _members(family, version)
            branch = (tree if folded else above).add(_line(fragments))
            below = 1 if folded else depth + 1
            pending += [(student, branch, below) for student in reversed(family.students(version))]
    return tree


def dot(family: Family, removed: Sequence[Tombstone] = (), elsewhere: Sequence[Version] = ()) -> str:
    """Return the family as a Graphviz graph, with a rank for each generation, from left to right.

    Versions of other families are dashed boxes, edges from members to ensembles dotted lines.
    """
    family, _ = _with_others(family, removed, elsewhere)
    lines = [f"digraph {_quoted(family.name)} {{", "  rankdir=LR;", "  node [shape=box];"]
    lines += [
        f"  {_quoted(version.id)} [label={_quoted(*_box(family, version))}"
        f"{'' if version.name == family.name else ' style=dashed'}];"
        for version in family
    ]
    lines += [f"  {_quoted(parent)} [style=dashed];" for parent in _outside(family)]
    ranks: dict[int, list[str]] = {}
    for version in family:
        ranks.setdefault(version.generation, []).append(_quoted(version.id))
    lines += [f"  {{ rank=same; {'; '.join(ranks[generation])}; }}" for generation in sorted(ranks)]
    lines += [
        f"  {_quoted(parent)} -> {_quoted(child)}{' [style=dotted]' * _is_ensemble(family, child)};"
        for parent, child in _edges(family)
    ]
    return "\n".join([*lines, "}", ""])


def mermaid(family: Family, removed: Sequence[Tombstone] = (), elsewhere: Sequence[Version] = ()) -> str:
    """Return the family as a Mermaid flowchart from left to right, dashed and dotted as for Graphviz."""
    family, _ = _with_others(family, removed, elsewhere)
    nodes = {version.id: f"v{version.version}" for version in family}
    outside = _outside(family)
    others = [version.id for version in family if version.name != family.name]
    nodes |= {other: f"outside{index}" for index, other in enumerate([*outside, *others], 1)}
    title = json.dumps(printable(family.name), ensure_ascii=False)  # a JSON string is a YAML one
    lines = ["---", f"title: {title}", "---", "flowchart LR"]
    lines += [
        f'    {nodes[version.id]}["{"<br/>".join(map(_entities, _box(family, version)))}"]'
        f"{'' if version.name == family.name else ':::outside'}"
        for version in family
    ]
    lines += [f'    {nodes[parent]}["{_entities(parent)}"]:::outside' for parent in outside]
    lines += [
        f"    {nodes[parent]} {'-.->' if _is_ensemble(family, child) else '-->'} {nodes[child]}"
        for parent, child in _edges(family)
    ]
    if outside or others:
        lines.append("    classDef outside stroke-dasharray: 4")
    return "\n".join([*lines, ""])


def tree_json(
    family: Family, removed: Sequence[Tombstone] = (), elsewhere: Sequence[Version] = ()
) -> dict[str, Any]:
    """Return plain values: name, versions, edges as pairs of ``name/version``, and what else is drawn.

    An edge leads from a teacher to its student, or from a member to its ensemble. ``removed`` are tombstones,
    ``students_elsewhere`` are students that are registered under other names.
    """
    return {
        "name": family.name,
        "versions": [version.to_json() for version in family],
        "edges": [list(edge) for edge in _edges([*family, *elsewhere])],
        "removed": [tombstone.to_json() for tombstone in _only_removed(family, removed)],
        "students_elsewhere": [student.to_json() for student in elsewhere],
    }


def _with_others(
    family: Family, removed: Sequence[Tombstone], elsewhere: Sequence[Version]
) -> tuple[Family, int]:
    """Return the family with versions that were removed from it, and their number, and students elsewhere."""
    gone = [replace(tombstone.version, kind=_REMOVED) for tombstone in _only_removed(family, removed)]
    versions = sorted([*family, *gone], key=attrgetter("version"))
    return Family(family.name, (*versions, *elsewhere)), len(gone)


def _only_removed(family: Family, removed: Sequence[Tombstone]) -> list[Tombstone]:
    """Return the tombstones of versions that are gone; a crash may leave both version and tombstone."""
    return [tombstone for tombstone in removed if family.with_id(tombstone.version.id) is None]


def _tops(family: Family) -> Iterator[Version]:
    """Yield the roots, then all versions: those that no root leads to form a circle, drawn from its first."""
    yield from family.roots
    yield from family


def _edges(versions: Iterable[Version]) -> list[tuple[str, str]]:
    return [(parent, version.id) for version in versions for parent in version.parents]


def _is_ensemble(family: Family, version_id: str) -> bool:
    version = family.with_id(version_id)
    return version is not None and bool(version.members)


def _outside(family: Family) -> list[str]:
    """Return the ids of teachers and members that this family does not hold, each once."""
    parents = dict.fromkeys(parent for parent, _ in _edges(family))
    return [parent for parent in parents if family.with_id(parent) is None]


def _rows(family: Family, version: Version) -> list[Fragments]:
    """Return what is shown of a version: its numbers, its accuracy, its aliases, its origin."""
    metrics = version.metrics
    accuracy = metrics.get("test_accuracy")
    teacher = family.teacher(version)
    accuracies: Fragments = []
    if accuracy is not None:
        accuracies.append((quantity("accuracy", accuracy), "bold cyan"))
        if teacher is not None and "test_accuracy" in teacher.metrics:
            gain = change("accuracy", accuracy - teacher.metrics["test_accuracy"])
            accuracies.append((gain, "red" if gain.startswith("-") else "green"))
    if "ensemble_accuracy" in metrics:
        accuracies.append((f"ensemble {quantity('accuracy', metrics['ensemble_accuracy'])}", "cyan"))
    role = version.objective if version.kind in ("generation", _REMOVED) else version.kind
    title = f"v{version.version}" if version.name == family.name else version.id
    return [
        [(title, "bold"), (f"generation {version.generation}", "")],
        accuracies,
        [(f"@{alias}", "magenta") for alias in version.aliases],
        [
            (role, ""),
            (version.network, ""),
            (f"seed {version.seed}", "dim"),
            (_REMOVED if version.kind == _REMOVED else "", "red"),
        ],
    ]


def _teacher(family: Family, version: Version) -> Fragments:
    return [] if version.teacher is None else [(f"teacher {_short_id(family, version.teacher)}", "yellow")]


def _members(family: Family, version: Version) -> Fragments:
    members = ", ".join(_short_id(family, member.id) for member in version.members)
    return [(f"members {members}", "yellow")] if members else []


def _short_id(family: Family, version_id: str) -> str:
    """Return ``v3`` for a version of this family, ``name/3`` for others, with a note if it is missing."""
    version = family.with_id(version_id)
    if version is not None and version.name == family.name:
        return f"v{version.version}"
    return version_id + (" (missing)" if version_id.rpartition("/")[0] == family.name else "")


def _line(fragments: Fragments) -> Text:
    spaced = (part for text, style in fragments if text for part in ("  ", (printable(text), style)))
    return Text.assemble(*islice(spaced, 1, None))


def _box(family: Family, version: Version) -> list[str]:
    """Return the rows of a box's label."""
    rows = (" · ".join(text for text, _ in row if text) for row in _rows(family, version))
    return [row for row in rows if row]


def _quoted(*rows: str) -> str:
    """Return a Graphviz string of ``rows``, with quotes and backslashes escaped."""
    escaped = (printable(row).replace("\\", "\\\\").replace('"', '\\"') for row in rows)
    return '"' + "\\n".join(escaped) + '"'


def _entities(text: str) -> str:
    """Return ``text`` escaped for a Mermaid label."""
    return printable(text).translate(_ENTITIES)
