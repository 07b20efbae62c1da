"""Registration of versions, and what each new one changes in its family: aliases and cards. No torch."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from lineage.errors import LineageError
from lineage.registry.family.aliases import move_alias, wanted_aliases
from lineage.registry.family.cards import card, corrected_card, family_card
from lineage.registry.family.family import SCHEMA, Family, Version, from_model_version, model_name
from lineage.registry.family.history import REGISTERED, Event, record
from lineage.registry.family.lookup import (
    circle_error,
    family_of,
    find_key,
    linked_students,
    require_no_circle,
)
from lineage.registry.family.tags import TAG, Member
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.files import FILES_TAG
from lineage.registry.store.search import read_model_with_versions


@dataclass(frozen=True)
class NewVersion:
    """Data of a new version, from which its tags are made.

    Attributes:
        generation: Index from 0.
        teacher: Version of the teacher, or None for a patriarch.
        objective: Objective of a patriarch's loss, or ``student``.
        seed: Seed of the succession.
        recipe_digest: Digest of the settings.
        key: Digest of everything the weights depend on.
        metrics: Final metrics.
        weights_sha256: SHA-256 of the weights file.
        kind: ``generation``, ``ensemble`` or ``adopted``.
        members: Members of an ensemble.
        code: Code of other packages that made it, by kind of builder; see ``lineage.extensions.Source``.
        network: Its network, where it is not the one that the recipe has for the family; else "".
    """

    generation: int
    teacher: Version | None
    objective: str
    seed: int
    recipe_digest: str
    key: str
    metrics: dict[str, float]
    weights_sha256: str
    kind: str = "generation"
    members: tuple[Member, ...] = ()
    code: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    network: str = ""

    def tags(self) -> dict[str, str]:
        """Return all tags of the version; a patriarch has neither a teacher nor another root."""
        tags = {
            "schema": str(SCHEMA),
            "kind": self.kind,
            "generation": str(self.generation),
            "objective": self.objective,
            "seed": str(self.seed),
            "recipe_digest": self.recipe_digest,
            "weights_sha256": self.weights_sha256,
            "metrics": json.dumps(self.metrics),
            "key": self.key,
        }
        if self.code:
            tags["code"] = json.dumps(self.code)
        if self.network:
            tags["network"] = self.network
        if self.teacher is not None:
            tags |= {
                "teacher": self.teacher.id,
                "teacher_model_id": self.teacher.model_id,
                "teacher_sha256": self.teacher.weights_sha256,
                "root": self.teacher.root,
            }
        tags |= {f"member.{i}": json.dumps(asdict(member)) for i, member in enumerate(self.members)}
        return {TAG + name: value for name, value in tags.items()}


@translated_errors()
def register(name: str, new: NewVersion, model_id: str, run_id: str) -> Version:
    """Make a logged model a version of ``name``: tags, teacher edge and card in one call, then aliases.

    The database numbers versions one after the other, so of several that get one key at the same time all
    but the lowest find an earlier one; they are taken back before anything points to them.

    Args:
        name: Name of the registered model, created if it is missing.
        new: Data of the version.
        model_id: ``m-…`` id of the logged model.
        run_id: Id of the run that logged it.

    Returns:
        The version with the key as a later reader finds it: this one, or an earlier one in its place.

    Raises:
        IntegrityError: If an ancestor of the version descends from itself, or the version would.
    """
    client = connect()
    draft = _draft(name, new, model_id, run_id)
    ancestors = require_no_circle(draft)
    _ensure_registered_model(client, name)
    created = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        tags=new.tags() | _files_tag(client, model_id),
        description=card(draft, new.teacher, ()),
        model_id=model_id,
    )
    number = int(created.version)  # known only now: an altered tag may have named it in advance
    if f"{name}/{number}" in ancestors:
        client.delete_model_version(name, str(number))
        raise circle_error(f"{name}/{number}", draft.parents)
    first = find_key(name, new.key) if new.key else None
    if first is not None and first.version < number:
        client.delete_model_version(name, str(number))
        client.delete_logged_model(model_id)
        settle(name)  # another process may just have given it an alias
        return first
    record(name, Event(REGISTERED, number, model_id=model_id))
    version = next(version for version in settle(name) if version.version == number)
    settle_teachers_family(version)
    return version


@translated_errors()
def settle(name: str) -> Family:
    """Bring the aliases of ``name`` and the links on its cards up to date; safe to run again.

    Returns:
        The family as its next reader finds it.
    """
    entities = read_model_with_versions(name).versions
    family = family_of(name, entities)
    current = {alias: version.version for version in family for alias in version.aliases}
    wanted = {
        alias: None if version is None else version.version
        for alias, version in wanted_aliases(family).items()
    }
    for alias, number in wanted.items():
        if current.get(alias) != number:
            move_alias(name, alias, number, current.get(alias))
    descriptions = {int(entity.version): entity.description or "" for entity in entities}
    students = linked_students(family)
    for version in family:
        present = descriptions[version.version]
        text = corrected_card(present, version, family.teacher(version), students[version.id])
        if text != present:
            connect().update_model_version(name, str(version.version), description=text)
    return _with_aliases(family, wanted)


def settle_teachers_family(version: Version) -> None:
    """Settle the family of a teacher that is registered under another name, if the store permits it.

    A store may let people read a family that they may not write; the next ``settle`` there repairs it.
    """
    name = model_name(version.teacher or "")
    if name not in ("", version.name):
        with suppress(LineageError):
            settle(name)


def _files_tag(client: MlflowClient, model_id: str) -> dict[str, str]:
    """Return the digest that the files of a logged model had when they were written."""
    digest = client.get_logged_model(model_id).tags.get(FILES_TAG)
    return {} if digest is None else {FILES_TAG: digest}


def _draft(name: str, new: NewVersion, model_id: str, run_id: str) -> Version:
    """Return the version as it will be read, with 0 in place of its number."""
    tags = [ModelVersionTag(key, value) for key, value in new.tags().items()]
    entity = ModelVersion(name, "0", 0, source=f"models:/{model_id}", run_id=run_id, tags=tags)
    draft = from_model_version(entity)
    assert draft is not None
    return draft


def _with_aliases(family: Family, moved: Mapping[str, int | None]) -> Family:
    """Return the family after ``moved`` aliases were set to version numbers, or deleted where None."""

    def aliases(version: Version) -> tuple[str, ...]:
        here = {alias for alias, number in moved.items() if number == version.version}
        return tuple(sorted(here.union(version.aliases).difference(moved.keys() - here)))

    return Family(family.name, tuple(replace(version, aliases=aliases(version)) for version in family))


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    """Create the registered model ``name`` unless it exists."""
    try:
        client.create_registered_model(
            name, tags={TAG + "schema": str(SCHEMA)}, description=family_card(name)
        )
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
