"""Keeps a family free of circles: nobody may descend from itself, along teachers and members of ensembles."""

from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter

from lineage.errors import IntegrityError
from lineage.registry.family.family import Family


def require_no_circle(version_id: str, parents: Iterable[str], read: Callable[[str], Family]) -> set[str]:
    """Refuse a version above which some edge leads back.

    Args:
        version_id: ``name/version`` of one that is there, or any other text for one that is about to be.
        parents: What it comes from, each ``name/version``.
        read: Gives the family of a name, an empty one where there is none; each is asked for once.

    Returns:
        All that its edges lead to, also what is no longer there.

    Raises:
        IntegrityError: If it or an ancestor of it descends from itself.
    """
    families: dict[str, Family] = {}
    graph = {version_id: tuple(parents)}
    unread = list(graph[version_id])
    while unread:
        parent = unread.pop()
        if parent in graph:
            continue
        name = parent.rpartition("/")[0]
        if name not in families:
            families[name] = read(name)
        version = families[name].with_id(parent)
        graph[parent] = () if version is None else version.parents
        unread += graph[parent]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        first, *through = error.args[1][:-1]
        raise circle(first, through or [first]) from None
    return graph.keys() - {version_id}


def circle(version_id: str, through: Iterable[str]) -> IntegrityError:
    """The error that tells of a circle."""
    return IntegrityError(
        f"models:/{version_id} must not descend from itself, but does, through {', '.join(through)}: a tag"
        f" was altered; run 'lineage doctor {version_id.rpartition('/')[0]}'."
    )
