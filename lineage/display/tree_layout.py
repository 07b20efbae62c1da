"""Layout of a family's tree: a column and a row for every node, in a drawing that runs from left to right.

A node is one column right of its rightmost parent. Its first child takes its row, so that a line of
generations is a straight line; each further child begins a row below. New versions do not move nodes above
them. Every walk is a loop, so that chains of any length can be laid out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

MAX_UNFOLDED = 6
"""Number of siblings that are shown before the others are folded into one item."""


@dataclass(frozen=True)
class NodePosition:
    """Position of one node.

    Attributes:
        column: Column from 0 at the left.
        row: Row from 0 at the top; a row in which nothing is shown takes no room.
        parent: The parent that the node is drawn beside; None in the first column.
    """

    column: int
    row: int
    parent: str | None


@dataclass(frozen=True)
class Fold:
    """Siblings that are shown as one item until the reader opens it.

    Attributes:
        parent: Their common parent; None in the first column.
        nodes: The siblings, in order.
        column: Column of the item.
        row: Row of the item: below the siblings that are shown, above those that are folded.
    """

    parent: str | None
    nodes: tuple[str, ...]
    column: int
    row: int


@dataclass(frozen=True)
class TreeLayout:
    """Layout of a whole family.

    Attributes:
        positions: Positions by node.
        folds: Folds from top to bottom.
    """

    positions: dict[str, NodePosition]
    folds: tuple[Fold, ...]

    @cached_property
    def num_columns(self) -> int:
        """Number of columns; 0 for an empty family."""
        return max((position.column + 1 for position in self.positions.values()), default=0)


def lay_out_tree(
    parents: Mapping[str, Sequence[str]], scores: Mapping[str, float], max_unfolded: int = MAX_UNFOLDED
) -> TreeLayout:
    """Return a layout in which no two items share a column and a row.

    Args:
        parents: Parents of each node, oldest first; a parent that is not itself a key is ignored. Nodes are
            laid out in the order of the keys. A cycle, which only edited tags can form, is cut where it
            closes.
        scores: Scores of nodes. Of many siblings those stay unfolded whose subtrees hold the highest scores.
        max_unfolded: Number of siblings that stay unfolded; at least 1.
    """
    known = {node: [p for p in dict.fromkeys(above) if p in parents] for node, above in parents.items()}
    order = _topological_order(known)
    index = {node: number for number, node in enumerate(order)}
    columns: dict[str, int] = {}
    beside: dict[str, str | None] = {}
    for node in order:
        above = [parent for parent in known[node] if index[parent] < index[node]]
        columns[node] = max((columns[parent] + 1 for parent in above), default=0)
        beside[node] = above[-1] if above else None
    children: dict[str | None, list[str]] = {}
    for node in parents:
        children.setdefault(beside[node], []).append(node)
    folded = _fold(order, beside, children, scores, max_unfolded)
    return _assign_rows(columns, beside, children, folded)


def _topological_order(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Return every node after its parents; the first node of a cycle comes before its parents.

    networkx and graphlib refuse graphs with cycles.
    """
    waiting = {node: len(above) for node, above in parents.items()}
    children: dict[str, list[str]] = {}
    for node, above in parents.items():
        for parent in above:
            children.setdefault(parent, []).append(node)
    order: list[str] = []
    done: set[str] = set()
    ready = [node for node, count in reversed(waiting.items()) if count == 0]
    candidates = iter(parents)  # where to cut a cycle
    while len(order) < len(parents):
        node = ready.pop() if ready else next(node for node in candidates if node not in done)
        if node in done:
            continue
        done.add(node)
        order.append(node)
        for child in reversed(children.get(node, [])):
            waiting[child] -= 1
            if waiting[child] == 0 and child not in done:
                ready.append(child)
    return order


def _fold(
    order: Sequence[str],
    beside: Mapping[str, str | None],
    children: Mapping[str | None, Sequence[str]],
    scores: Mapping[str, float],
    max_unfolded: int,
) -> dict[str | None, list[str]]:
    """Return, by parent, the children that are folded."""
    best = {node: scores.get(node, float("-inf")) for node in order}
    for node in reversed(order):
        parent = beside[node]
        if parent is not None:
            best[parent] = max(best[parent], best[node])
    folded = {}
    for parent, siblings in children.items():
        if len(siblings) > max_unfolded:
            shown = set(sorted(siblings, key=lambda node: best[node], reverse=True)[:max_unfolded])
            folded[parent] = [node for node in siblings if node not in shown]
    return folded


def _assign_rows(
    columns: Mapping[str, int],
    beside: Mapping[str, str | None],
    children: Mapping[str | None, Sequence[str]],
    folded: Mapping[str | None, Sequence[str]],
) -> TreeLayout:
    """Assign rows depth first: children that are shown, then the fold, then the children in it."""
    positions: dict[str, NodePosition] = {}
    folds: list[Fold] = []
    next_row = 0
    pending: list[tuple[str | None, str | None, bool]] = []  # a node, or None and the parent of a fold

    def push_children(parent: str | None) -> None:
        hidden = folded.get(parent, ())
        apart = set(hidden)
        shown = [child for child in children.get(parent, ()) if child not in apart]
        pending.extend((child, None, False) for child in reversed(hidden))
        if hidden:
            pending.append((None, parent, False))
        pending.extend((child, None, parent is not None and child == shown[0]) for child in reversed(shown))

    push_children(None)
    while pending:
        node, fold_parent, takes_parents_row = pending.pop()
        if node is None:
            column = 0 if fold_parent is None else positions[fold_parent].column + 1
            folds.append(Fold(fold_parent, tuple(folded[fold_parent]), column, next_row))
            next_row += 1
            continue
        parent = beside[node]
        row = positions[parent].row if takes_parents_row and parent is not None else next_row
        next_row = max(next_row, row + 1)
        positions[node] = NodePosition(columns[node], row, parent)
        push_children(node)
    return TreeLayout({node: positions[node] for node in columns}, tuple(folds))
