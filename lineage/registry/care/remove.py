"""Versions taken out of a family: refused while others need them, or with a tombstone in their place."""

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import RegisteredModel

from lineage.errors import IntegrityError
from lineage.registry.care.history import REMOVED, Event, record
from lineage.registry.family.family import TAG, Member, Version
from lineage.registry.family.lookup import find_version
from lineage.registry.family.register import settle, settle_elsewhere
from lineage.registry.family.relatives import descendants_of
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.entities import read_model

TOMBSTONE = TAG + "removed."

_NAMED = 10
_LONGEST = 5000  # of a registered model's tag in a database


@dataclass(frozen=True)
class Removal:
    """What ``remove`` did.

    Attributes:
        version: As it was.
        orphans: Whose teacher or member it was; only by force are there any.
        tombstone: Whether one stands in its place.
    """

    version: Version
    orphans: tuple[Version, ...]
    tombstone: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "removed": self.version.to_json(),
            "orphans": [orphan.uri for orphan in self.orphans],
            "tombstone": self.tombstone,
        }


@translated_errors()
def remove(uri: str, force: bool = False) -> Removal:
    """Take a version out of its family; its run and logged model stay where they are.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        force: Whether to remove what others need, and leave a tombstone.

    Raises:
        IntegrityError: If students or ensembles need it, in this family or another; nothing is changed then.
        NotFoundError: If the store does not hold it.
        UsageError: If ``uri`` has another form.
    """
    version = find_version(uri)
    kin = descendants_of(version)
    needed_by = tuple(relative.version for relative in kin if relative.distance == 1)
    if needed_by and not force:
        further = len(kin) - len(needed_by)
        raise IntegrityError(
            f"{version.uri} must have no descendants to be removed, but {_listed(needed_by)}"
            f" {'needs' if len(needed_by) == 1 else 'need'} it"
            + (f", with {further} further descendant{'s' * (further > 1)}" if further else "")
            + "; remove those first, or leave a tombstone with --force."
        )
    client = connect()
    if force:
        client.set_registered_model_tag(version.name, f"{TOMBSTONE}{version.version}", _inscription(version))
    client.delete_model_version(version.name, str(version.version))
    record(version.name, Event(REMOVED, version.version, model_id=version.model_id))
    settle(version.name)
    settle_elsewhere(version)
    return Removal(version, needed_by, force)


@dataclass(frozen=True)
class Tombstone:
    """What stands in the place of a version that was removed by force.

    Attributes:
        version: As it was, without its aliases.
        removed: Milliseconds since the epoch.
    """

    version: Version
    removed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return self.version.to_json() | {"removed": self.removed}


@translated_errors()
def read_tombstones(name: str) -> tuple[Tombstone, ...]:
    """Of versions of ``name`` that were removed by force, by number; none where there is no such model.

    Raises:
        RegistryError: If the store does not answer.
    """
    model = read_model(name)
    return () if model is None else tuple(tombstones_of(model))


def tombstones_of(model: RegisteredModel) -> list[Tombstone]:
    """Those in the tags of ``model``; a tag that somebody altered is none."""
    found = [_read(model.name, value) for key, value in model.tags.items() if key.startswith(TOMBSTONE)]
    return sorted((stone for stone in found if stone is not None), key=lambda stone: stone.version.version)


def _inscription(version: Version) -> str:
    """The version as JSON; without its numbers where a database would not take them."""
    words = {field.name: getattr(version, field.name) for field in fields(Version)}
    words |= {"members": [vars(member) for member in version.members], "aliases": []}
    words["removed"] = int(datetime.now(UTC).timestamp() * 1000)
    text = json.dumps(words)
    return text if len(text) <= _LONGEST else json.dumps(words | {"metrics": {}, "members": []})


def _read(name: str, text: str) -> Tombstone | None:
    try:
        words = json.loads(text)
        removed = int(words.pop("removed"))
        members = tuple(Member(**member) for member in words.pop("members"))
        version = Version(**words | {"name": name, "aliases": (), "members": members})
        return Tombstone(version, removed)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _listed(versions: tuple[Version, ...]) -> str:
    shown = ", ".join(version.uri for version in versions[:_NAMED])
    more = len(versions) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
