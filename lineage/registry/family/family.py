"""The family tree, read from the tags of model versions with one search; imports no torch."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from lineage.errors import IntegrityError

TAG = "lineage."
MEMBER_TAG = TAG + "member."
SCHEMA = 1


@dataclass(frozen=True)
class Member:
    """One member of an ensemble, pinned as it was when the ensemble was registered.

    Attributes:
        id: ``name/version``.
        model_id: MLflow's ``m-…`` id of its logged model.
        weights_sha256: Of its weights.
        weight: Of its probabilities in the mean; the weights of all members sum to 1.
    """

    id: str
    model_id: str
    weights_sha256: str
    weight: float


@dataclass(frozen=True)
class Version:
    """One model version of a family: a generation, as its tags describe it.

    Attributes:
        name: Of the registered model.
        version: MLflow's number; says nothing about the generation.
        kind: ``generation``, ``ensemble`` or ``adopted``.
        generation: Index from 0; a patriarch has 0.
        teacher: ``name/version`` of the teacher, or None for a patriarch.
        root: ``name/version`` of the patriarch at the end of the teachers; its own for a patriarch.
        objective: Of a patriarch's loss, or ``student``.
        seed: Of the succession.
        recipe_digest: Of the settings it was grown from, the same for every seed.
        key: Digest of everything the weights depend on.
        metrics: Final numbers: ``test_…``, ``validation_…``, ``seconds`` and others.
        weights_sha256: Of the weights file.
        model_id: MLflow's ``m-…`` id of the logged model.
        run_id: Of the run that trained it.
        created: Milliseconds since the epoch.
        aliases: That point here.
        members: Of an ensemble, oldest first.
        teacher_model_id: Of the teacher as it was when this version was registered.
        teacher_sha256: Of the teacher's weights then.
    """

    name: str
    version: int
    kind: str = "generation"
    generation: int = 0
    teacher: str | None = None
    root: str = ""
    objective: str = ""
    seed: int = 0
    recipe_digest: str = ""
    key: str = ""
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    weights_sha256: str = ""
    model_id: str = ""
    run_id: str = ""
    created: int = 0
    aliases: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    teacher_model_id: str = ""
    teacher_sha256: str = ""

    @property
    def id(self) -> str:
        """``name/version``, as edges name it."""
        return f"{self.name}/{self.version}"

    @property
    def uri(self) -> str:
        """``models:/name/version``."""
        return f"models:/{self.id}"

    @property
    def parents(self) -> tuple[str, ...]:
        """What it comes from, each ``name/version``, once: its teacher, or the members of an ensemble."""
        teacher = () if self.teacher is None else (self.teacher,)
        return tuple(dict.fromkeys((*teacher, *(member.id for member in self.members))))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "uri": self.uri,
            "version": self.version,
            "kind": self.kind,
            "generation": self.generation,
            "teacher": self.teacher,
            "root": self.root,
            "objective": self.objective,
            "seed": self.seed,
            "aliases": list(self.aliases),
            "metrics": self.metrics,
            "recipe_digest": self.recipe_digest,
            "key": self.key,
            "weights_sha256": self.weights_sha256,
            "model_id": self.model_id,
            "run_id": self.run_id,
        } | ({"members": [asdict(member) for member in self.members]} if self.members else {})


def from_model_version(entity: ModelVersion, aliases: tuple[str, ...] = ()) -> Version | None:
    """What the tags of ``entity`` say, or None where ``lineage`` did not make it.

    Raises:
        IntegrityError: If a later version of the tool made it, or a tag that is needed is missing or altered.
    """
    schema = entity.tags.get(TAG + "schema")
    if schema is None:
        return None
    uri = f"models:/{entity.name}/{entity.version}"
    if schema.isdecimal() and int(schema) > SCHEMA:
        raise IntegrityError(
            f"The schema of {uri} must be at most {SCHEMA}, but is {schema}; update lineage."
        )
    try:
        return _read_tags(entity, aliases)
    except (KeyError, ValueError, TypeError) as error:
        raise IntegrityError(
            f"The tags of {uri} must be those that lineage gave it, but one is missing or altered: {error};"
            " put it right in MLflow, or delete the version."
        ) from error


def _read_tags(entity: ModelVersion, aliases: tuple[str, ...]) -> Version:
    tags = entity.tags
    own = f"{entity.name}/{entity.version}"
    return Version(
        name=entity.name,
        version=int(entity.version),
        kind=tags[TAG + "kind"],
        generation=int(tags[TAG + "generation"]),
        teacher=tags.get(TAG + "teacher"),
        root=tags.get(TAG + "root", own),
        objective=tags.get(TAG + "objective", ""),
        seed=int(tags.get(TAG + "seed", 0)),
        recipe_digest=tags.get(TAG + "recipe_digest", ""),
        key=tags.get(TAG + "key", ""),
        metrics=json.loads(tags.get(TAG + "metrics", "{}")),
        weights_sha256=tags.get(TAG + "weights_sha256", ""),
        model_id=(entity.source or "").removeprefix("models:/"),
        run_id=entity.run_id or "",
        created=int(entity.creation_timestamp or 0),
        aliases=aliases,
        members=_read_members(tags),
        teacher_model_id=tags.get(TAG + "teacher_model_id", ""),
        teacher_sha256=tags.get(TAG + "teacher_sha256", ""),
    )


def _read_members(tags: dict[str, str]) -> tuple[Member, ...]:
    """The members in the order of their numbers."""
    numbered = {
        int(name.removeprefix(MEMBER_TAG)): Member(**json.loads(value))
        for name, value in tags.items()
        if name.startswith(MEMBER_TAG)
    }
    return tuple(numbered[number] for number in sorted(numbered))


@dataclass(frozen=True)
class Family:
    """One registered model: a forest of generations.

    Attributes:
        name: Of the registered model.
        versions: In the order of their numbers.
    """

    name: str
    versions: tuple[Version, ...] = field(default=())

    def __iter__(self) -> Iterator[Version]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)

    @cached_property
    def _by_id(self) -> dict[str, Version]:
        return {version.id: version for version in self.versions}

    @cached_property
    def _students(self) -> dict[str, list[Version]]:
        students: dict[str, list[Version]] = {}
        for version in self.versions:
            if version.teacher is not None:
                students.setdefault(version.teacher, []).append(version)
        return students

    @cached_property
    def _by_key(self) -> dict[str, Version]:
        return {version.key: version for version in reversed(self.versions) if version.key}

    @property
    def roots(self) -> tuple[Version, ...]:
        """Versions whose parents, if any, are not in this family."""
        return tuple(version for version in self.versions if not self.parents(version))

    def students(self, version: Version) -> tuple[Version, ...]:
        """Whom ``version`` taught in this family, oldest first."""
        return tuple(self._students.get(version.id, ()))

    def teacher(self, version: Version) -> Version | None:
        """The teacher, where it is in this family."""
        return None if version.teacher is None else self._by_id.get(version.teacher)

    def parents(self, version: Version) -> tuple[Version, ...]:
        """The teacher, or the members of an ensemble, as far as they are in this family."""
        return tuple(self._by_id[parent] for parent in version.parents if parent in self._by_id)

    def ancestors(self, version: Version) -> tuple[Version, ...]:
        """Parents of ``version``, theirs and so on, nearest first; ends where an edge leaves the family."""
        return tuple(relative for relative, _ in walk(version, self.parents))

    def descendants(self, version: Version) -> tuple[Version, ...]:
        """Whom ``version`` taught, their students and so on, and ensembles that hold any; nearest first."""
        return tuple(relative for relative, _ in walk(version, self._children))

    def _children(self, version: Version) -> tuple[Version, ...]:
        return self.students(version) + tuple(self._ensembles.get(version.id, ()))

    @cached_property
    def _ensembles(self) -> dict[str, list[Version]]:
        ensembles: dict[str, list[Version]] = {}
        for version in self.versions:
            for member in version.members:
                ensembles.setdefault(member.id, []).append(version)
        return ensembles

    def with_id(self, version_id: str) -> Version | None:
        """The version called ``name/version``, if it is in this family."""
        return self._by_id.get(version_id)

    def with_key(self, key: str) -> Version | None:
        """The oldest version of that key: what need not be trained again."""
        return self._by_key.get(key)


def walk(
    start: Version, step: Callable[[Version], Iterable[Version]], depth: int | None = None
) -> tuple[tuple[Version, int], ...]:
    """Where ``step`` leads from ``start``, again and again: nearest first, each once with its distance.

    A circle, which only edited tags can hold, ends where it closes.

    Args:
        start: Is not among what is found.
        step: Gives the neighbours of a version.
        depth: How many steps to take; all without it.
    """
    found: dict[str, tuple[Version, int]] = {}
    nearest, distance = [start], 0
    while nearest and (depth is None or distance < depth):
        distance += 1
        reached = {version.id: version for near in nearest for version in step(near)}
        nearest = [version for key, version in reached.items() if key not in found and key != start.id]
        found |= {version.id: (version, distance) for version in nearest}
    return tuple(found.values())
