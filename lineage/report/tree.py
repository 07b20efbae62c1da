"""A family drawn: as a tree on a terminal, for Graphviz, for Mermaid and as plain values.

Walks are loops, not recursion, so that chains of any length draw. A circle, which only edited tags can hold,
is drawn once.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from rich.text import Text
from rich.tree import Tree

from lineage.formats import change, counted, printable, quantity
from lineage.registry.care.remove import Tombstone
from lineage.registry.family.family import Family, Version

_DEPTH = 10
"""Levels that leave a line 50 of a terminal's 80 columns; below them a branch goes on at the left."""

_GUIDES = ("   ", "│  ", "├─ ", "└─ ")
_ASCII_GUIDES = ("   ", "|  ", "+- ", "`- ")

_REMOVED = "removed"

_ENTITIES = str.maketrans({character: f"#{ord(character)};" for character in "#\"&'<>`{\\"})
"""Mermaid's own escapes of what its labels take for HTML, entities, Markdown or directives."""

Words = list[tuple[str, str]]  # text, style


def rich_tree(family: Family, removed: Sequence[Tombstone] = ()) -> Tree:
    """One line a version, below its teacher's; text alone, so that nothing in a name is taken as markup.

    What was removed and left a tombstone stands in its place.

    A version at the left that has a teacher names it: one of another family, one that is missing, or one
    further up, where the branch has passed ``_DEPTH`` levels. An ensemble names its members.
    """
    title = [(family.name, "bold"), (counted(len(family), "version"), "dim")]
    family, num_removed = _with_tombstones(family, removed)
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
            words = list(chain(*_rows(family, version)))
            if folded or depth == 0:
                words += _teacher_words(family, version)
            words += _member_words(family, version)
            branch = (tree if folded else above).add(_line(words))
            below = 1 if folded else depth + 1
            pending += [(student, branch, below) for student in reversed(family.students(version))]
    return tree


def dot(family: Family, removed: Sequence[Tombstone] = ()) -> str:
    """The family for Graphviz, generations in ranks from left to right.

    Teachers and members of elsewhere are dashed boxes, edges from members to ensembles dotted lines.
    """
    family, _ = _with_tombstones(family, removed)
    lines = [f"digraph {_quoted(family.name)} {{", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(version.id)} [label={_quoted(*_box(family, version))}];" for version in family]
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


def mermaid(family: Family, removed: Sequence[Tombstone] = ()) -> str:
    """The family as a Mermaid flowchart from left to right; dashed and dotted as for Graphviz."""
    family, _ = _with_tombstones(family, removed)
    nodes = {version.id: f"v{version.version}" for version in family}
    outside = _outside(family)
    nodes |= {parent: f"outside{index}" for index, parent in enumerate(outside, 1)}
    title = json.dumps(printable(family.name), ensure_ascii=False)  # a JSON string is a YAML one
    lines = ["---", f"title: {title}", "---", "flowchart LR"]
    lines += [
        f'    {nodes[version.id]}["{"<br/>".join(map(_entities, _box(family, version)))}"]'
        for version in family
    ]
    lines += [f'    {nodes[parent]}["{_entities(parent)}"]:::outside' for parent in outside]
    lines += [
        f"    {nodes[parent]} {'-.->' if _is_ensemble(family, child) else '-->'} {nodes[child]}"
        for parent, child in _edges(family)
    ]
    if outside:
        lines.append("    classDef outside stroke-dasharray: 4")
    return "\n".join([*lines, ""])


def tree_json(family: Family, removed: Sequence[Tombstone] = ()) -> dict[str, Any]:
    """Plain values: name, versions, edges as pairs of ``name/version``, tombstones.

    An edge leads from a teacher to its student, or from a member to its ensemble.
    """
    return {
        "name": family.name,
        "versions": [version.to_json() for version in family],
        "edges": [list(edge) for edge in _edges(family)],
        "removed": [stone.to_json() for stone in removed if family.with_id(stone.version.id) is None],
    }


def _with_tombstones(family: Family, removed: Sequence[Tombstone]) -> tuple[Family, int]:
    """The family with what was removed from it, and how many that are; a crash may leave both."""
    gone = [
        replace(stone.version, kind=_REMOVED) for stone in removed if family.with_id(stone.version.id) is None
    ]
    versions = sorted([*family, *gone], key=lambda version: version.version)
    return Family(family.name, tuple(versions)), len(gone)


def _tops(family: Family) -> Iterator[Version]:
    """Roots, then all: versions that no root leads to stand in a circle, which its first one opens."""
    yield from family.roots
    yield from family


def _edges(family: Family) -> list[tuple[str, str]]:
    return [(parent, version.id) for version in family for parent in version.parents]


def _is_ensemble(family: Family, version_id: str) -> bool:
    version = family.with_id(version_id)
    return version is not None and bool(version.members)


def _outside(family: Family) -> list[str]:
    """Teachers and members that this family does not hold, each once."""
    parents = dict.fromkeys(parent for parent, _ in _edges(family))
    return [parent for parent in parents if family.with_id(parent) is None]


def _rows(family: Family, version: Version) -> list[Words]:
    """What there is to say of a version: who it is, how good, its aliases, where it comes from."""
    metrics = version.metrics
    accuracy = metrics.get("test_accuracy")
    teacher = family.teacher(version)
    merits: Words = []
    if accuracy is not None:
        merits.append((quantity("accuracy", accuracy), "bold cyan"))
        if teacher is not None and "test_accuracy" in teacher.metrics:
            gain = change("accuracy", accuracy - teacher.metrics["test_accuracy"])
            merits.append((gain, "red" if gain.startswith("-") else "green"))
    if "ensemble_accuracy" in metrics:
        merits.append((f"ensemble {quantity('accuracy', metrics['ensemble_accuracy'])}", "cyan"))
    role = version.objective if version.kind in ("generation", _REMOVED) else version.kind
    return [
        [(f"v{version.version}", "bold"), (f"generation {version.generation}", "")],
        merits,
        [(f"@{alias}", "magenta") for alias in version.aliases],
        [(role, ""), (f"seed {version.seed}", "dim"), (_gone(version), "red")],
    ]


def _gone(version: Version) -> str:
    return _REMOVED if version.kind == _REMOVED else ""


def _teacher_words(family: Family, version: Version) -> Words:
    return [] if version.teacher is None else [(f"teacher {_called(family, version.teacher)}", "yellow")]


def _member_words(family: Family, version: Version) -> Words:
    members = ", ".join(_called(family, member.id) for member in version.members)
    return [(f"members {members}", "yellow")] if members else []


def _called(family: Family, version_id: str) -> str:
    """``v3`` for a version that this family holds, ``name/3`` for others; missing where it should hold it."""
    version = family.with_id(version_id)
    if version is not None:
        return f"v{version.version}"
    return version_id + (" (missing)" if version_id.rpartition("/")[0] == family.name else "")


def _line(words: Words) -> Text:
    spaced = (part for text, style in words if text for part in ("  ", (printable(text), style)))
    return Text.assemble(*islice(spaced, 1, None))


def _box(family: Family, version: Version) -> list[str]:
    """The rows of a box's label."""
    rows = (" · ".join(text for text, _ in row if text) for row in _rows(family, version))
    return [row for row in rows if row]


def _quoted(*rows: str) -> str:
    """A Graphviz string of ``rows``: quotes and backslashes escaped."""
    escaped = (printable(row).replace("\\", "\\\\").replace('"', '\\"') for row in rows)
    return '"' + "\\n".join(escaped) + '"'


def _entities(text: str) -> str:
    """``text`` inside a Mermaid label."""
    return printable(text).translate(_ENTITIES)
