"""Versions and families as values, read from the tags of model versions; imports no torch.

Anybody who may write to the store can alter tags, so their types, JSON and edges are checked on reading.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from lineage.errors import IntegrityError
from lineage.formats import counted, quantity, read_problem
from lineage.registry.family.tags import TAG, Member, audit_metrics, read_tags

__all__ = [
    "SCHEMA",
    "TAG",
    "Family",
    "Member",
    "Version",
    "from_model_version",
    "logged_model_id",
    "model_name",
    "walk",
]

SCHEMA = 1

_VERSION_ID = re.compile(r"[^/:]*[^/:\s][^/:]*/\d+")  # NAME/VERSION; MLflow forbids "/" and ":" in names


@dataclass(frozen=True)
class Version:
    """One model version of a family: a generation, an ensemble or an adopted network.

    Attributes:
        name: Name of the registered model.
        version: MLflow's version number; it is not the generation.
        kind: ``generation``, ``ensemble`` or ``adopted``.
        generation: Index from 0; a patriarch has 0.
        teacher: ``name/version`` of the teacher, or None for a patriarch.
        root: ``name/version`` of the patriarch that the chain of teachers ends at; its own for a patriarch.
        objective: Objective of a patriarch's loss, or ``student``.
        seed: Seed of the succession.
        recipe_digest: Digest of the settings it was grown from, the same for every seed.
        key: Digest of everything the weights depend on.
        metrics: Final metrics: ``test_…``, ``validation_…``, ``seconds``, ``audit_…`` and others.
        weights_sha256: SHA-256 of the weights file.
        model_id: MLflow's ``m-…`` id of the logged model.
        run_id: Id of the run that trained it.
        created: Time of registration, in milliseconds since the epoch.
        aliases: Aliases that point to it.
        members: Members of an ensemble, oldest first.
        teacher_model_id: Id of the teacher's logged model when this version was registered.
        teacher_sha256: SHA-256 of the teacher's weights at that time.
        code: Code of other packages that made it, by kind of builder, as ``lineage.extensions.Source``.
        files_sha256: Digest of all files of the logged model; "" if registered before there was one.
        network: Its network, where that is not the recipe's for the family; else "".
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
    code: dict[str, dict[str, str]] = field(default_factory=dict, hash=False)
    files_sha256: str = ""
    network: str = ""

    def __repr__(self) -> str:
        measured = self.metrics.get("test_accuracy")
        accuracy = "" if measured is None else f", test accuracy {quantity('accuracy', measured)}"
        return f"<Version {self.uri}: {self.kind} {self.generation}{accuracy}>"

    @property
    def id(self) -> str:
        """``name/version``, the form in which edges name a version."""
        return f"{self.name}/{self.version}"

    @property
    def uri(self) -> str:
        """``models:/name/version``."""
        return f"models:/{self.id}"

    @property
    def parents(self) -> tuple[str, ...]:
        """``name/version`` of the teacher, or of the members of an ensemble, each once."""
        teacher = () if self.teacher is None else (self.teacher,)
        return tuple(dict.fromkeys((*teacher, *(member.id for member in self.members))))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        members = {"members": [asdict(member) for member in self.members]} if self.members else {}
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
            "files_sha256": self.files_sha256,
            "model_id": self.model_id,
            "run_id": self.run_id,
        } | (members | {name: value for name in ("code", "network") if (value := getattr(self, name))})


def from_model_version(entity: ModelVersion, aliases: tuple[str, ...] = ()) -> Version | None:
    """Read a version from the tags of ``entity``; None if ``lineage`` did not register it.

    Raises:
        IntegrityError: If a later version of the tool wrote it, or a required tag is missing or altered.
    """
    if TAG + "schema" not in entity.tags:
        return None
    uri = f"models:/{entity.name}/{entity.version}"
    try:
        schema = int(entity.tags[TAG + "schema"])
        if schema > SCHEMA:
            raise IntegrityError(
                f"The schema of {uri} must be at most {SCHEMA}, but is {schema}; update lineage."
            )
        return _read_tags(entity, aliases)
    except ValueError as error:
        raise IntegrityError(
            f"The tags of {uri} must be those that lineage gave it, but one is missing or altered:"
            f" {read_problem(error)}; correct it in MLflow, or delete the version."
        ) from error


def _read_tags(entity: ModelVersion, aliases: tuple[str, ...]) -> Version:
    tags = read_tags(entity.tags)
    version = Version(
        name=entity.name,
        version=int(entity.version),
        kind=tags.kind,
        generation=tags.generation,
        teacher=tags.teacher,
        root=tags.root or f"{entity.name}/{entity.version}",
        objective=tags.objective,
        seed=tags.seed,
        recipe_digest=tags.recipe_digest,
        key=tags.key,
        metrics=tags.metrics | audit_metrics(tags.audit),
        weights_sha256=tags.weights_sha256,
        model_id=logged_model_id(entity),
        run_id=entity.run_id or "",
        created=int(entity.creation_timestamp or 0),
        aliases=aliases,
        members=tuple(tags.member[number] for number in sorted(tags.member)),
        teacher_model_id=tags.teacher_model_id,
        teacher_sha256=tags.teacher_sha256,
        files_sha256=tags.files_sha256,
        code=tags.code,
        network=tags.network,
    )
    for parent in (*version.parents, version.root):
        if not _VERSION_ID.fullmatch(parent):
            raise ValueError(f"a teacher, member or root must read NAME/VERSION, but is '{parent}'")
    return version


def logged_model_id(entity: ModelVersion) -> str:
    """Return the ``m-…`` id of a version's logged model; MLflow's SQL store gives it in the source alone."""
    return (entity.source or "").removeprefix("models:/")


def model_name(version_id: str) -> str:
    """Return the registered model's name of a ``name/version``."""
    return version_id.rpartition("/")[0]


@dataclass(frozen=True)
class Family:
    """One registered model: a forest of generations.

    Attributes:
        name: Name of the registered model.
        versions: Its versions in the order of their numbers.
    """

    name: str
    versions: tuple[Version, ...] = field(default=())

    def __repr__(self) -> str:
        return f"<Family {self.name}: {counted(len(self), 'version')}>"

    def __iter__(self) -> Iterator[Version]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)

    @cached_property
    def _by_id(self) -> dict[str, Version]:
        return {version.id: version for version in self.versions}

    @cached_property
    def _by_key(self) -> dict[str, Version]:
        return {version.key: version for version in reversed(self.versions) if version.key}

    @cached_property
    def _by_parent(self) -> dict[str, list[Version]]:
        children: dict[str, list[Version]] = {}
        for version in self.versions:
            for parent in version.parents:
                children.setdefault(parent, []).append(version)
        return children

    @property
    def roots(self) -> tuple[Version, ...]:
        """Versions whose parents, if any, are not in this family."""
        return tuple(version for version in self.versions if not self.parents(version))

    def students(self, version: Version) -> tuple[Version, ...]:
        """Return the students of ``version`` in this family, oldest first."""
        return tuple(child for child in self.children(version.id) if child.teacher == version.id)

    def teacher(self, version: Version) -> Version | None:
        """Return the teacher of ``version``, if it is in this family."""
        return None if version.teacher is None else self._by_id.get(version.teacher)

    def parents(self, version: Version) -> tuple[Version, ...]:
        """Return the teacher, or the members of an ensemble, as far as they are in this family."""
        return tuple(self._by_id[parent] for parent in version.parents if parent in self._by_id)

    def children(self, version_id: str) -> tuple[Version, ...]:
        """Return students of a ``name/version``, in this family or not, and ensembles that hold it."""
        return tuple(self._by_parent.get(version_id, ()))

    def ancestors(self, version: Version) -> tuple[Version, ...]:
        """Return parents of ``version``, their parents and so on, nearest first, within this family."""
        return tuple(relative for relative, _ in walk(version, self.parents))

    def descendants(self, version: Version) -> tuple[Version, ...]:
        """Return children of ``version``, their children and so on, nearest first, within this family."""
        return tuple(relative for relative, _ in walk(version, lambda near: self.children(near.id)))

    def with_id(self, version_id: str) -> Version | None:
        """Return the version called ``name/version``, if it is in this family."""
        return self._by_id.get(version_id)

    def with_key(self, key: str) -> Version | None:
        """Return the oldest version with that key, which need not be trained again."""
        return self._by_key.get(key)


def walk(
    start: Version, step: Callable[[Version], Iterable[Version]], depth: int | None = None
) -> tuple[tuple[Version, int], ...]:
    """Search breadth first from ``start``; return each version reached, nearest first, with its distance.

    Each version is visited once, so that a circle, which only altered tags can make, ends the walk. A search
    of our own, since ``step`` may read further families as it reaches them, and networkx wants a whole graph.

    Args:
        start: Version to start from; it is not among those returned.
        step: Function that returns the neighbours of a version.
        depth: Number of edges to follow; all by default.
    """
    found: dict[str, tuple[Version, int]] = {}
    nearest, distance = [start], 0
    while nearest and (depth is None or distance < depth):
        distance += 1
        reached = {version.id: version for near in nearest for version in step(near)}
        nearest = [version for key, version in reached.items() if key not in found and key != start.id]
        found |= {version.id: (version, distance) for version in nearest}
    return tuple(found.values())
