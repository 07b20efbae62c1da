"""Model versions as generations: found, registered, with aliases and cards; imports no torch."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    RESOURCE_ALREADY_EXISTS,
    ErrorCode,
)

from lineage.errors import LineageError
from lineage.registry.care.history import ALIAS, REGISTERED, Event, record
from lineage.registry.family.cards import card, family_card, mended
from lineage.registry.family.circles import circle, require_no_circle
from lineage.registry.family.family import SCHEMA, TAG, Family, Member, Version, from_model_version
from lineage.registry.family.lookup import family_of, read_any
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.entities import model_versions, students_elsewhere

BEST = "best"
LATEST_GENERATION = "latest-generation"


@dataclass(frozen=True)
class NewVersion:
    """What is known of a generation when it is registered; its tags are made from this.

    Attributes:
        generation: Index from 0.
        teacher: Its model version, or None for a patriarch.
        objective: Of a patriarch's loss, or ``student``.
        seed: Of the succession.
        recipe_digest: Of the settings.
        key: Of everything the weights depend on.
        metrics: Final numbers.
        weights_sha256: Of the weights file.
        kind: ``generation``, ``ensemble`` or ``adopted``.
        members: Of an ensemble.
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

    def tags(self) -> dict[str, str]:
        """All tags of the new version; a patriarch has no teacher and is its own root."""
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
def register(name: str, birth: NewVersion, model_id: str, run_id: str) -> Version:
    """Make the logged model a version of ``name``: tags, teacher edge and card in one call, then aliases.

    Returns:
        The version as a later reader finds it.

    Raises:
        IntegrityError: If its teacher or a member descends from itself, or would from the new version.
    """
    client = connect()
    tags = birth.tags()
    draft = from_model_version(
        ModelVersion(name, "0", 0, source=f"models:/{model_id}", run_id=run_id, tags=_as_entities(tags))
    )
    assert draft is not None
    above = require_no_circle(draft.id, draft.parents, read_any)
    _ensure_registered_model(client, name)
    created = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        tags=tags,
        description=card(draft, birth.teacher, ()),
        model_id=model_id,
    )
    if f"{name}/{created.version}" in above:  # its number is known only now
        client.delete_model_version(name, created.version)
        raise circle(f"{name}/{created.version}", draft.parents)
    record(name, Event(REGISTERED, int(created.version), model_id=model_id))
    family = settle(name)
    version = next(version for version in family if version.version == int(created.version))
    settle_elsewhere(version)
    return version


@translated_errors()
def settle(name: str) -> Family:
    """Bring the aliases of ``name`` and its teachers' links to students up to date; safe to run again.

    ``best`` points to the highest validation accuracy, and to nothing where no version has one;
    ``latest-generation`` to the highest generation, then the newest version.
    """
    client = connect()
    entities = model_versions(name)
    family = family_of(name, entities)
    held = {alias: version for version in family for alias in version.aliases}
    wanted = wanted_aliases(family)
    for alias, version in wanted.items():
        previous = held[alias].version if alias in held else None
        if version is None and alias in held:
            client.delete_registered_model_alias(name, alias)
            record(name, Event(ALIAS, None, alias, previous))
        elif version is not None and held.get(alias) != version:
            point(client, alias, version)
            record(name, Event(ALIAS, version.version, alias, previous))
    descriptions = {int(entity.version): entity.description or "" for entity in entities}
    students = linked_students(family)
    for version in family:
        shown = descriptions[version.version]
        text = mended(shown, version, family.teacher(version), students[version.id])
        if text != shown:
            client.update_model_version(name, str(version.version), description=text)
    return _with_aliases(family, wanted)


def _with_aliases(family: Family, moved: Mapping[str, Version | None]) -> Family:
    """The family after aliases were moved, or taken away, as its next reader finds it."""

    def pointing(version: Version) -> tuple[str, ...]:
        here = {alias for alias, to in moved.items() if to is not None and to.version == version.version}
        return tuple(sorted(here.union(version.aliases).difference(moved.keys() - here)))

    return Family(family.name, tuple(replace(version, aliases=pointing(version)) for version in family))


def settle_elsewhere(version: Version) -> None:
    """Settle the family of a teacher that stands in another one, if the store lets us.

    A store may let people read a family that they may not write; whoever settles it next sees to the rest.
    """
    name = (version.teacher or "").rpartition("/")[0]
    if name not in ("", version.name):
        with suppress(LineageError):
            settle(name)


def linked_students(family: Family) -> dict[str, list[str]]:
    """Whom each version of ``family`` taught, both as ``name/version``: of its own name, then of others."""
    taught = {version.id: [student.id for student in family.students(version)] for version in family}
    for entity in students_elsewhere(family.name):
        if entity.tags[TAG + "teacher"] in taught:
            taught[entity.tags[TAG + "teacher"]].append(f"{entity.name}/{entity.version}")
    return taught


def wanted_aliases(family: Family) -> dict[str, Version | None]:
    """Where the aliases should point."""
    generations = [version for version in family if version.kind == "generation"]
    validated = [version for version in generations if "validation_accuracy" in version.metrics]
    return {
        LATEST_GENERATION: max(generations, key=lambda v: (v.generation, v.version), default=None),
        BEST: max(validated, key=lambda v: (v.metrics["validation_accuracy"], -v.version), default=None),
    }


def point(client: MlflowClient, alias: str, version: Version) -> None:
    """Set an alias, again where another process created it at this moment, which MLflow takes for a fault."""
    try:
        client.set_registered_model_alias(version.name, alias, str(version.version))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(BAD_REQUEST):
            raise
        client.set_registered_model_alias(version.name, alias, str(version.version))


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    """Create the registered model ``name`` unless it exists."""
    try:
        client.create_registered_model(
            name, tags={TAG + "schema": str(SCHEMA)}, description=family_card(name)
        )
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _as_entities(tags: dict[str, str]) -> list[mlflow.entities.model_registry.ModelVersionTag]:
    return [mlflow.entities.model_registry.ModelVersionTag(key, value) for key, value in tags.items()]
