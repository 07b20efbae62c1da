"""Removal of versions: refused while others need them, or with a tombstone in their place."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import RegisteredModel
from pydantic import TypeAdapter

from lineage.errors import IntegrityError
from lineage.formats import counted
from lineage.registry.family.family import Family, Version
from lineage.registry.family.history import REMOVED, Event, record
from lineage.registry.family.lookup import descendants_of, family_of, find_version
from lineage.registry.family.register import settle, settle_teachers_family
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.search import find_model, read_model_with_versions, search_open_runs_below

TOMBSTONE = TAG + "removed."

_NAMED = 10
_LONGEST = 5000  # of a registered model's tag in a database

_FIELDS = TypeAdapter(dict[str, Any])
_VERSION = TypeAdapter(Version)


@dataclass(frozen=True)
class Removal:
    """The outcome of ``remove``.

    Attributes:
        version: Version as it was.
        orphans: Versions whose teacher or member it was; there are none unless the removal was forced.
        tombstone: Whether a tombstone is in its place.
    """

    version: Version
    orphans: tuple[Version, ...]
    tombstone: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "removed": self.version.to_json(),
            "orphans": [orphan.uri for orphan in self.orphans],
            "tombstone": self.tombstone,
        }


@translated_errors()
def remove(uri: str, force: bool = False) -> Removal:
    """Remove a version from its family; its run and its logged model stay.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        force: Whether to remove a version that others or open runs need, and to leave a tombstone.

    Raises:
        IntegrityError: If students or ensembles in any family need it, or an open run does, such as that of a
            student in training; nothing is changed then.
        NotFoundError: If the store does not hold it.
        UsageError: If ``uri`` has another form.
    """
    version = find_version(uri)
    descendants = descendants_of(version)
    children = tuple(relative.version for relative in descendants if relative.distance == 1)
    if children and not force:
        further = len(descendants) - len(children)
        raise IntegrityError(
            f"{version.uri} must have no descendants to be removed, but {_listed(children)}"
            f" {'needs' if len(children) == 1 else 'need'} it"
            + (f", with {counted(further, 'further descendant')}" if further else "")
            + "; remove those first, or leave a tombstone with --force."
        )
    if not force:
        _require_no_work(version)
    client = connect()
    if force:
        tag = f"{TOMBSTONE}{version.version}"
        client.set_registered_model_tag(version.name, tag, _tombstone_text(version))
    client.delete_model_version(version.name, str(version.version))
    record(version.name, Event(REMOVED, version.version, model_id=version.model_id))
    settle(version.name)
    settle_teachers_family(version)
    return Removal(version, children, force)


@translated_errors()
def remove_family(name: str) -> Family:
    """Remove a registered model with all its versions; their runs and logged models stay.

    Args:
        name: Name of the registered model.

    Returns:
        The family as it was.

    Raises:
        IntegrityError: If versions of other families or open runs need one of them, or some versions are not
            of ``lineage``; nothing is changed then.
        NotFoundError: If the store holds no such model.
        RegistryError: If the store does not answer.
    """
    entities = read_model_with_versions(name).versions
    family = family_of(name, entities)
    if len(family) < len(entities):
        raise IntegrityError(
            f"All versions of '{name}' must be of lineage for it to be removed, but"
            f" {len(entities) - len(family)} of {len(entities)} are not; delete the model in MLflow."
        )
    children = {
        relative.version.id: relative.version
        for version in family
        for relative in descendants_of(version, depth=1)
        if relative.version.name != name
    }
    if children:
        raise IntegrityError(
            f"'{name}' must have no descendants in other families to be removed, but"
            f" {_listed(tuple(children.values()))} {'needs' if len(children) == 1 else 'need'} it; remove"
            " those first."
        )
    for version in family:
        _require_no_work(version)
    connect().delete_registered_model(name)
    for version in family:
        settle_teachers_family(version)
    return family


@dataclass(frozen=True)
class Tombstone:
    """A record, in a tag of the registered model, of a version that was removed by force.

    Attributes:
        version: Version as it was, without its aliases.
        removed: Time of the removal, in milliseconds since the epoch.
    """

    version: Version
    removed: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return self.version.to_json() | {"removed": self.removed}


@translated_errors()
def read_tombstones(name: str) -> tuple[Tombstone, ...]:
    """Return the tombstones of ``name`` by version number; none if there is no such model.

    Raises:
        RegistryError: If the store does not answer.
    """
    model = find_model(name)
    return () if model is None else tuple(tombstones_of(model))


def tombstones_of(model: RegisteredModel) -> list[Tombstone]:
    """Return the tombstones in the tags of ``model`` by version number; altered ones are left out."""
    read = (_read(model.name, tag, text) for tag, text in model.tags.items() if tag.startswith(TOMBSTONE))
    found = (tombstone for tombstone in read if tombstone is not None)
    return sorted(found, key=lambda tombstone: tombstone.version.version)


def _tombstone_text(version: Version) -> str:
    """Return the version as JSON; without metrics and members if it is too long for a database."""
    fields = asdict(version) | {"aliases": [], "removed": int(datetime.now(UTC).timestamp() * 1000)}
    text = json.dumps(fields)
    return text if len(text) <= _LONGEST else json.dumps(fields | {"metrics": {}, "members": []})


def _read(name: str, tag: str, text: str) -> Tombstone | None:
    try:
        fields = _FIELDS.validate_json(text)
        own = {"name": name, "version": int(tag.removeprefix(TOMBSTONE)), "aliases": ()}
        return Tombstone(_VERSION.validate_python(fields | own), int(fields["removed"]))
    except (ValueError, TypeError, KeyError):
        return None


def _require_no_work(version: Version) -> None:
    """Refuse to remove a version that a run in progress needs, such as that of a student in training."""
    runs = search_open_runs_below(version.run_id) if version.run_id else []
    if runs:
        shown = ", ".join(f"run {run.info.run_id} ({run.info.run_name})" for run in runs[:_NAMED])
        family = str(connect().get_experiment(runs[0].info.experiment_id).name)
        raise IntegrityError(
            f"{version.uri} must have no work in progress to be removed, but {shown}"
            f" {'needs' if len(runs) == 1 else 'need'} it; wait for it, leave a tombstone with"
            f" --force, or, if it is dead, run 'lineage doctor {family} --fix --kill-runs'."
        )


def _listed(versions: tuple[Version, ...]) -> str:
    shown = ", ".join(version.uri for version in versions[:_NAMED])
    more = len(versions) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
