"""Where the versions of a family stand in a drawing: columns from left to right, rows from top to bottom.

A node stands one column right of its last parent, and its oldest child goes on in its row, so that a line of
generations is a straight line; each further child begins a row below. A family that grows moves nothing that
is older. Walks are loops, so that chains of any length are placed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

FEW = 6
"""How many siblings are shown before the others fold together."""


@dataclass(frozen=True)
class NodePosition:
    """Where one node stands.

    Attributes:
        column: From 0 at the left.
        row: From 0 at the top; a row that shows nothing takes no room.
        parent: The one of its parents that it stands beside; None at the left.
    """

    column: int
    row: int
    parent: str | None


@dataclass(frozen=True)
class Fold:
    """Siblings that are shown as one until somebody asks for them.

    Attributes:
        parent: Of all of them; None for those at the left.
        nodes: Who they are, in order.
        column: Where what stands for them stands.
        row: Below the last of their siblings that is shown, and above the first of them.
    """

    parent: str | None
    nodes: tuple[str, ...]
    column: int
    row: int


@dataclass(frozen=True)
class Placement:
    """A whole family, placed.

    Attributes:
        spots: By node.
        folds: From top to bottom.
    """

    spots: dict[str, NodePosition]
    folds: tuple[Fold, ...]

    @cached_property
    def num_columns(self) -> int:
        """How many there are; 0 of an empty family."""
        return max((spot.column + 1 for spot in self.spots.values()), default=0)


def place(parents: Mapping[str, Sequence[str]], worth: Mapping[str, float], few: int = FEW) -> Placement:
    """Give every node its place.

    Args:
        parents: Of each node, the nodes that it comes from, oldest first; names without an entry of their own
            are passed over. Nodes are placed in the order given. A circle, which only edited tags can hold,
            is cut where it closes.
        worth: Of a node; of more than ``few`` siblings those stay unfolded whose descendants are worth most.
        few: At least 1.
    """
    known = {node: [p for p in dict.fromkeys(above) if p in parents] for node, above in parents.items()}
    order = _topological_order(known)
    position = {node: number for number, node in enumerate(order)}
    columns: dict[str, int] = {}
    beside: dict[str, str | None] = {}
    for node in order:
        above = [parent for parent in known[node] if position[parent] < position[node]]
        columns[node] = max((columns[parent] + 1 for parent in above), default=0)
        beside[node] = above[-1] if above else None
    children: dict[str | None, list[str]] = {}
    for node in parents:
        children.setdefault(beside[node], []).append(node)
    folded = _folded(order, beside, children, worth, few)
    return _rows(columns, beside, children, folded)


def _topological_order(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Every node after its parents; of a circle, the node that was given first stands before its parents."""
    waiting = {node: len(above) for node, above in parents.items()}
    children: dict[str, list[str]] = {}
    for node, above in parents.items():
        for parent in above:
            children.setdefault(parent, []).append(node)
    order: list[str] = []
    done: set[str] = set()
    ready = [node for node, count in reversed(waiting.items()) if count == 0]
    circular = iter(parents)
    while len(order) < len(parents):
        node = ready.pop() if ready else next(node for node in circular if node not in done)
        if node in done:
            continue
        done.add(node)
        order.append(node)
        for child in reversed(children.get(node, [])):
            waiting[child] -= 1
            if waiting[child] == 0 and child not in done:
                ready.append(child)
    return order


def _folded(
    order: Sequence[str],
    beside: Mapping[str, str | None],
    children: Mapping[str | None, Sequence[str]],
    worth: Mapping[str, float],
    few: int,
) -> dict[str | None, list[str]]:
    """By parent, the children that fold together."""
    best = {node: worth.get(node, float("-inf")) for node in order}
    for node in reversed(order):
        parent = beside[node]
        if parent is not None:
            best[parent] = max(best[parent], best[node])
    folded = {}
    for parent, siblings in children.items():
        if len(siblings) > few:
            shown = set(sorted(siblings, key=lambda node: best[node], reverse=True)[:few])
            folded[parent] = [node for node in siblings if node not in shown]
    return folded


def _rows(
    columns: Mapping[str, int],
    beside: Mapping[str, str | None],
    children: Mapping[str | None, Sequence[str]],
    folded: Mapping[str | None, Sequence[str]],
) -> Placement:
    """Rows in depth first, shown children before a fold and folded ones below it."""
    spots: dict[str, NodePosition] = {}
    folds: list[Fold] = []
    next_row = 0
    pending: list[tuple[str | None, str | None, bool]] = []  # node or, where None, the fold of a parent

    def push(parent: str | None) -> None:
        hidden = folded.get(parent, ())
        apart = set(hidden)
        shown = [child for child in children.get(parent, ()) if child not in apart]
        pending.extend((child, None, False) for child in reversed(hidden))
        if hidden:
            pending.append((None, parent, False))
        in_line = parent is not None
        pending.extend((child, None, in_line and child == shown[0]) for child in reversed(shown))

    push(None)
    while pending:
        node, of, in_line = pending.pop()
        if node is None:
            column = 0 if of is None else spots[of].column + 1
            folds.append(Fold(of, tuple(folded[of]), column, next_row))
            next_row += 1
            continue
        parent = beside[node]
        row = spots[parent].row if in_line and parent is not None else next_row
        next_row = max(next_row, row + 1)
        spots[node] = NodePosition(columns[node], row, parent)
        push(node)
    return Placement({node: spots[node] for node in columns}, tuple(folds))
