"""Who descends from whom in the whole store: edges may lead from one registered model to another."""

from dataclasses import dataclass
from typing import Any

from lineage.registry.family.family import TAG, Version, walk
from lineage.registry.family.lookup import read_family
from lineage.registry.store.connection import translated_errors
from lineage.registry.store.entities import other_than, search_versions, students_elsewhere


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
    return _relatives(walk(version, _Relatives().parents, depth))


@translated_errors()
def descendants_of(version: Version, depth: int | None = None) -> tuple[Relative, ...]:
    """Students of ``version`` and ensembles that hold it, in any family, theirs and so on, nearest first.

    Args:
        version: Whose.
        depth: How many edges to follow; all without it.

    Raises:
        RegistryError: If the store does not answer.
    """
    return _relatives(walk(version, _Relatives().children, depth))


class _Relatives:
    """Families of the store, each read once, when an edge leads to it."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, Version]] = {}
        self._children: dict[str, list[Version]] = {}
        self._searched: set[str] = set()

    def parents(self, version: Version) -> list[Version]:
        """Those that the store holds."""
        found = (self._family(_name(parent)).get(parent) for parent in version.parents)
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
                for parent in version.parents:
                    self._children.setdefault(parent, []).append(version)
        return self._versions[name]


def _relatives(found: tuple[tuple[Version, int], ...]) -> tuple[Relative, ...]:
    return tuple(Relative(version, distance) for version, distance in found)


def _families_that_name(name: str) -> set[str]:
    """Other registered models with students of versions of ``name``, or ensembles of any."""
    ensembles = search_versions(f"tags.`{TAG}kind` = 'ensemble' AND {other_than(name)}")
    return {entity.name for entity in [*students_elsewhere(name), *ensembles]} - {name}


def _name(version_id: str) -> str:
    return version_id.rpartition("/")[0]
