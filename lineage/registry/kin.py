"""Who descends from whom in the whole store: edges may lead from one registered model to another."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lineage.registry.ancestry import TAG, Version
from lineage.registry.entities import filter_text, search_versions
from lineage.registry.store import translated_errors
from lineage.registry.versions import read_family


@dataclass(frozen=True)
class Relative:
    """An ancestor or a descendant of a version.

    Attributes:
        version: Who it is.
        distance: Number of edges between the two, along the shortest way; at least 1.
    """

    version: Version
    distance: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {"distance": self.distance} | self.version.to_json()


@translated_errors()
def ancestors_of(version: Version, depth: int | None = None) -> tuple[Relative, ...]:
    """The teacher of ``version``, or its members, their teachers and so on, nearest first.

    Args:
        version: Whose.
        depth: How many edges to follow; all without it.

    Raises:
        RegistryError: If the store does not answer.
    """
    return _walk(version, depth, _Kin().parents)


@translated_errors()
def descendants_of(version: Version, depth: int | None = None) -> tuple[Relative, ...]:
    """Students of ``version`` and ensembles that hold it, in any family, theirs and so on, nearest first.

    Args:
        version: Whose.
        depth: How many edges to follow; all without it.

    Raises:
        RegistryError: If the store does not answer.
    """
    return _walk(version, depth, _Kin().children)


def parent_ids(version: Version) -> tuple[str, ...]:
    """What ``version`` comes from, each ``name/version``: its teacher, or the members of an ensemble."""
    teacher = () if version.teacher is None else (version.teacher,)
    return (*teacher, *(member.id for member in version.members))


class _Kin:
    """Families of the store, each read once, when an edge leads to it."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, Version]] = {}
        self._children: dict[str, list[Version]] = {}
        self._searched: set[str] = set()

    def parents(self, version: Version) -> list[Version]:
        """Those that the store holds."""
        found = (self._family(_name(parent)).get(parent) for parent in parent_ids(version))
        return [parent for parent in found if parent is not None]

    def children(self, version: Version) -> list[Version]:
        """Of its own family first."""
        self._family(version.name)
        if version.name not in self._searched:
            self._searched.add(version.name)
            for name in sorted(_families_that_name(version.name)):
                self._family(name)
        return self._children.get(version.id, [])

    def _family(self, name: str) -> dict[str, Version]:
        if name not in self._versions:
            family = read_family(name, missing_ok=True)
            self._versions[name] = {version.id: version for version in family}
            for version in family:
                for parent in dict.fromkeys(parent_ids(version)):
                    self._children.setdefault(parent, []).append(version)
        return self._versions[name]


def _walk(
    start: Version, depth: int | None, step: Callable[[Version], Iterable[Version]]
) -> tuple[Relative, ...]:
    """In breadth, each once; a circle, which only edited tags can hold, ends where it closes."""
    found: dict[str, Relative] = {}
    nearest, distance = [start], 0
    while nearest and (depth is None or distance < depth):
        distance += 1
        reached = {version.id: version for near in nearest for version in step(near)}
        nearest = [version for key, version in reached.items() if key not in found and key != start.id]
        found |= {version.id: Relative(version, distance) for version in nearest}
    return tuple(found.values())


def _families_that_name(name: str) -> set[str]:
    """Other registered models with students of versions of ``name``, or ensembles of any."""
    students = search_versions(f"tags.`{TAG}teacher` LIKE '{filter_text(name)}/%' AND {_other_than(name)}")
    ensembles = search_versions(f"tags.`{TAG}kind` = 'ensemble' AND {_other_than(name)}")
    return {entity.name for entity in [*students, *ensembles]} - {name}


def _other_than(name: str) -> str:
    """A filter that spares the store what is already read, where the name can be written in one."""
    return "name != ''" if "'" in name else f"name != '{name}'"


def _name(version_id: str) -> str:
    return version_id.rpartition("/")[0]
