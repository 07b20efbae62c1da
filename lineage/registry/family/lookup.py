"""Families, versions and their relatives, as the registry holds them; imports no torch.

Edges may lead from one registered model to another, so a walk reads further families as it reaches them. A
circle of edges, which only altered tags can make, ends every walk (see ``walk``); ``require_no_circle`` is
the one place that refuses it, before a version is grown from or registered.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from lineage.errors import IntegrityError, NotFoundError, UsageError, suggestion
from lineage.registry.family.family import Family, Version, from_model_version, model_name, walk
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import safe_uri, translated_errors
from lineage.registry.store.search import (
    find_model,
    find_model_with_versions,
    has_key,
    read_model_with_versions,
    search_families_below,
    search_students_elsewhere,
)

_URI = re.compile(r"models:/(?P<name>[^/:]+)(/(?P<version>\d+)|@(?P<alias>[\w-]+))")
_NUMBERS_IN_MESSAGE = 10


@translated_errors()
def read_family(name: str, missing_ok: bool = False) -> Family:
    """Read all generations registered under ``name``, with one search for them and one for the aliases.

    Args:
        name: Name of the registered model.
        missing_ok: Whether a model that does not exist is an empty family.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
        IntegrityError: If a version's tags were altered.
        RegistryError: If the store does not answer.
    """
    found = find_model_with_versions(name) if missing_ok else read_model_with_versions(name)
    return Family(name) if found is None else family_of(name, found.versions)


tree = read_family  # its public name


def family_of(name: str, entities: Iterable[ModelVersion]) -> Family:
    """Return the family in the tags of ``entities``, without versions that ``lineage`` did not register."""
    versions = (from_model_version(entity, tuple(entity.aliases)) for entity in entities)
    return Family(name, tuple(version for version in versions if version is not None))


@translated_errors()
def find_key(name: str, key: str) -> Version | None:
    """Return the version of ``name`` with that key; the family is read only if it has one.

    Raises:
        RegistryError: If the store does not answer.
    """
    return read_family(name, missing_ok=True).with_key(key) if has_key(name, key) else None


@translated_errors()
def find_version(uri: str) -> Version:
    """Return the version behind ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        UsageError: If ``uri`` has another form.
        NotFoundError: If the store holds no such model, version or alias.
        IntegrityError: If the version was not made by lineage, or its tags were altered.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise UsageError(
            f"A model URI must read models:/NAME/VERSION or models:/NAME@ALIAS, but got '{uri}'."
        )
    entities = read_model_with_versions(match["name"]).versions
    for entity in entities:
        if match["alias"] in entity.aliases or match["version"] == str(entity.version):
            version = from_model_version(entity, tuple(entity.aliases))
            if version is None:
                raise IntegrityError(
                    f"{uri} must be a version that lineage registered, but has no tags of it; name another."
                )
            return version
    aliases = sorted(alias for entity in entities for alias in entity.aliases)
    numbers = [str(entity.version) for entity in entities]
    shown = ", ".join(numbers[-_NUMBERS_IN_MESSAGE:]) or "none"
    raise NotFoundError(
        f"The store {safe_uri()} holds no {uri}; the versions of '{match['name']}' are"
        f" {'…, ' if len(numbers) > _NUMBERS_IN_MESSAGE else ''}{shown}, its aliases"
        f" {', '.join(aliases) or 'none'}.{suggestion(match['alias'] or '', aliases)}"
    )


class _Store:
    """The versions of a whole store; each family is read once, when an edge leads to it.

    Args:
        missing_ok: Whether a registered model that edges name may be missing.
    """

    def __init__(self, missing_ok: bool = True) -> None:
        self._missing_ok = missing_ok
        self._families: dict[str, Family] = {}
        self._searched: set[str] = set()

    def family(self, name: str) -> Family:
        if name not in self._families:
            self._families[name] = read_family(name, self._missing_ok)
        return self._families[name]

    def find(self, version_id: str) -> Version | None:
        return self.family(model_name(version_id)).with_id(version_id)

    def parents(self, version: Version) -> list[Version]:
        """Return the teacher or the members of ``version`` that the store holds."""
        return [parent for parent in map(self.find, version.parents) if parent is not None]

    def children(self, version: Version) -> list[Version]:
        """Return students of ``version`` and ensembles that hold it, those of its own family first."""
        self.family(version.name)
        if version.name not in self._searched:
            self._searched.add(version.name)
            for name in sorted(search_families_below(version.name)):
                self.family(name)
        return [child for family in self._families.values() for child in family.children(version.id)]


@dataclass(frozen=True)
class Relative:
    """An ancestor or a descendant of a version.

    Attributes:
        version: The relative.
        distance: Number of edges between the two on the shortest path; at least 1.
    """

    version: Version
    distance: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {"distance": self.distance} | self.version.to_json()


@translated_errors()
def ancestors_of(version: Version, depth: int | None = None) -> tuple[Relative, ...]:
    """Return the teacher of ``version`` or its members, their parents and so on, nearest first.

    Args:
        version: Version to start from.
        depth: Number of edges to follow; all by default.

    Raises:
        RegistryError: If the store does not answer.
    """
    return tuple(Relative(*found) for found in walk(version, _Store().parents, depth))


@translated_errors()
def descendants_of(version: Version, depth: int | None = None) -> tuple[Relative, ...]:
    """Return students of ``version``, ensembles that hold it, their children and so on, nearest first.

    Args:
        version: Version to start from.
        depth: Number of edges to follow; all by default.

    Raises:
        RegistryError: If the store does not answer.
    """
    return tuple(Relative(*found) for found in walk(version, _Store().children, depth))


def read_ancestors(version: Version) -> tuple[Version, ...]:
    """Return the chain of teachers of ``version``, nearest first, also across families.

    The chain ends early at a teacher whose version was removed.

    Raises:
        NotFoundError: If the store holds no model of a teacher's name.
        IntegrityError: If a teacher is not the model, or has not the weights, that its student is pinned to.
    """
    store = _Store(missing_ok=False)

    def teacher_of(student: Version) -> list[Version]:
        teacher = None if student.teacher is None else store.find(student.teacher)
        if teacher is None:
            return []
        _require_pinned(student, teacher)
        return [teacher]

    return tuple(teacher for teacher, _ in walk(version, teacher_of))


def require_no_circle(version: Version) -> set[str]:
    """Refuse a version that descends from itself, or has an ancestor that does.

    Args:
        version: Version in the store, or a draft of one.

    Returns:
        ``name/version`` of all its ancestors, also of those that are no longer in the store.

    Raises:
        IntegrityError: If there is a circle, or the version's registered model was deleted.
    """
    store = _Store()
    _require_own_model(store, version)
    graph = {version.id: version.parents}
    unread = list(version.parents)
    while unread:
        parent = unread.pop()
        if parent not in graph:
            found = store.find(parent)
            graph[parent] = () if found is None else found.parents
            unread += graph[parent]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        first, *others = error.args[1][:-1]
        raise circle_error(first, others or [first]) from None
    return graph.keys() - {version.id}


def _require_own_model(store: _Store, version: Version) -> None:
    """Refuse a version with a parent in its own registered model, where that was deleted."""
    own = [parent for parent in version.parents if model_name(parent) == version.name]
    if own and not store.family(version.name).versions and find_model(version.name) is None:
        raise IntegrityError(
            f"The registered model '{version.name}' must hold {own[0]}, which a new version descends from,"
            " but was deleted, as in MLflow's UI; run the same command again to grow the family anew."
        )


def circle_error(version_id: str, through: Iterable[str]) -> IntegrityError:
    """Return the error for a version that descends from itself through others."""
    return IntegrityError(
        f"models:/{version_id} must not descend from itself, but does, through {', '.join(through)}: a tag"
        f" was altered; run 'lineage doctor {model_name(version_id)}'."
    )


@translated_errors()
def students_elsewhere(name: str) -> tuple[Version, ...]:
    """Return the students of versions of ``name`` that are registered under other names, oldest first.

    Of a student whose tags were altered only its name, number and teacher are told.

    Raises:
        RegistryError: If the store does not answer.
    """
    return tuple(_student_of(entity) for entity in search_students_elsewhere(name))


def _student_of(entity: ModelVersion) -> Version:
    with suppress(IntegrityError):
        student = from_model_version(entity)
        if student is not None:
            return student
    return Version(
        entity.name, int(entity.version), teacher=entity.tags[TAG + "teacher"], objective="student"
    )


def linked_students(family: Family) -> dict[str, list[str]]:
    """Return ``name/version`` of each version's students: those of its own family, then those of others."""
    students = {version.id: [student.id for student in family.students(version)] for version in family}
    for entity in search_students_elsewhere(family.name):
        if entity.tags[TAG + "teacher"] in students:
            students[entity.tags[TAG + "teacher"]].append(f"{entity.name}/{entity.version}")
    return students


def _require_pinned(student: Version, teacher: Version) -> None:
    """Refuse a teacher of the right name that is not the model that its student is pinned to."""
    pins = ((student.teacher_model_id, teacher.model_id), (student.teacher_sha256, teacher.weights_sha256))
    for pinned, found in pins:
        if pinned != found:
            raise IntegrityError(
                f"{student.uri} names teacher {teacher.id} as {pinned or 'nothing'}, but the store's"
                f" {teacher.id} is {found or 'nothing'}; run 'lineage doctor {student.name}'."
            )
