"""Families and versions as the registry holds them, by name, number, alias or edge; imports no torch."""

import re
from collections.abc import Iterable

from mlflow.entities.model_registry import ModelVersion

from lineage.errors import IntegrityError, NotFoundError, UsageError, suggestion
from lineage.registry.family.circles import require_no_circle
from lineage.registry.family.family import Family, Version, from_model_version
from lineage.registry.store.connection import safe_uri, translated_errors
from lineage.registry.store.entities import has_key, model_versions

_URI = re.compile(r"models:/(?P<name>[^/:]+)(/(?P<version>\d+)|@(?P<alias>[\w-]+))")
_NUMBERS_IN_MESSAGE = 10


@translated_errors()
def read_family(name: str, missing_ok: bool = False) -> Family:
    """All generations registered under ``name``: one search, and one call for the aliases.

    Args:
        name: Of the registered model.
        missing_ok: Whether a model that does not exist is an empty family.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
        RegistryError: If the store does not answer.
    """
    return family_of(name, model_versions(name, missing_ok))


tree = read_family  # its public name


@translated_errors()
def find_key(name: str, key: str) -> Version | None:
    """The version of ``name`` that holds a generation's key; a family that has none is not read for it.

    Raises:
        RegistryError: If the store does not answer.
    """
    return read_family(name, missing_ok=True).with_key(key) if has_key(name, key) else None


def read_ancestors(version: Version) -> tuple[Version, ...]:
    """Teachers of ``version``, nearest first, also where they are registered under other names.

    Raises:
        NotFoundError: If the store holds no model of a teacher's name.
        IntegrityError: If what is called like a teacher now is not what taught.
    """
    families: dict[str, Family] = {}
    found: dict[str, Version] = {}
    student, teacher = version, version.teacher
    while teacher is not None and teacher not in found and teacher != version.id:
        name = teacher.rpartition("/")[0]
        if name not in families:
            families[name] = read_family(name)
        member = families[name].with_id(teacher)
        if member is None:
            break
        _require_pinned(student, member)
        found[teacher] = member
        student, teacher = member, member.teacher
    return tuple(found.values())


def _require_pinned(student: Version, teacher: Version) -> None:
    """Refuse what has the name of a student's teacher and is not the model that its edge was pinned to."""
    pins = ((student.teacher_model_id, teacher.model_id), (student.teacher_sha256, teacher.weights_sha256))
    for pinned, found in pins:
        if pinned != found:
            raise IntegrityError(
                f"{student.uri} names teacher {teacher.id} as {pinned or 'nothing'}, but the store's"
                f" {teacher.id} is {found or 'nothing'}; run 'lineage doctor {student.name}'."
            )


def require_sound_line(version: Version) -> None:
    """Refuse a version that descends from itself, or whose ancestors do.

    Raises:
        IntegrityError: If there is a circle.
    """
    require_no_circle(version.id, version.parents, read_any)


@translated_errors()
def find_version(uri: str) -> Version:
    """The version behind ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        UsageError: If ``uri`` has another form.
        NotFoundError: If the store holds no such model, version or alias.
        IntegrityError: If the version was not made by lineage.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise UsageError(
            f"A model URI must read models:/NAME/VERSION or models:/NAME@ALIAS, but got '{uri}'."
        )
    found = model_versions(match["name"])
    for entity in found:
        if match["alias"] in entity.aliases or match["version"] == str(entity.version):
            version = from_model_version(entity, tuple(entity.aliases))
            if version is None:
                raise IntegrityError(
                    f"{uri} must be a version that lineage registered, but has no tags of it; name another."
                )
            return version
    aliases = sorted(alias for entity in found for alias in entity.aliases)
    numbers = [str(entity.version) for entity in found]
    shown = ", ".join(numbers[-_NUMBERS_IN_MESSAGE:]) or "none"
    raise NotFoundError(
        f"The store {safe_uri()} holds no {uri}; the versions of '{match['name']}' are"
        f" {'…, ' if len(numbers) > _NUMBERS_IN_MESSAGE else ''}{shown}, its aliases"
        f" {', '.join(aliases) or 'none'}.{suggestion(match['alias'] or '', aliases)}"
    )


def read_any(name: str) -> Family:
    """The family of that name, which is empty where the store holds none, or can hold none."""
    try:
        return read_family(name, missing_ok=True)
    except UsageError:
        return Family(name)


def family_of(name: str, entities: Iterable[ModelVersion]) -> Family:
    """The family that stands in the tags of ``entities``, without what others registered."""
    versions = (from_model_version(entity, tuple(entity.aliases)) for entity in entities)
    return Family(name, tuple(version for version in versions if version is not None))
