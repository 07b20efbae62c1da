"""Whether the edges of a family hold: each is pinned to a name, a model id and the weights' digest."""

from collections.abc import Iterator
from functools import partial

from mlflow.entities.model_registry import ModelVersion

from lineage.registry.care.findings import Finding
from lineage.registry.care.remove import tombstones_of
from lineage.registry.family.family import TAG, Family, Version
from lineage.registry.store.connection import connect
from lineage.registry.store.entities import Entities, find_entities

_DEAD_END = "cannot be completed: restore the store from a backup, or remove the version that depends on it"

Pin = tuple[str, str]  # model id, SHA-256 of the weights


def check_edges(family: Family, entities: Entities) -> Iterator[Finding]:
    """Teachers and members that are gone without a tombstone, or are not what they were."""
    store = _Store(family.name, entities)
    for version in family:
        tags = store.versions[version.id].tags
        if version.teacher is not None:
            pin = (tags.get(TAG + "teacher_model_id", ""), tags.get(TAG + "teacher_sha256", ""))
            yield from _check_edge(store, version, "teacher", version.teacher, pin)
        for member in version.members:
            pin = (member.model_id, member.weights_sha256)
            yield from _check_edge(store, version, "member", member.id, pin)


def check_circles(family: Family) -> Iterator[Finding]:
    """Versions that descend from themselves, and those between two such circles."""
    parents = {
        version.id: {parent for parent in version.parents if family.with_id(parent)} for version in family
    }
    for within in _circular(parents):
        does = "names itself" if within in parents[within] else "does"
        yield Finding(
            "circle",
            f"models:/{within}",
            f"models:/{within} must not descend from itself, but {does},"
            f" through {', '.join(sorted(parents[within]))}",
            "cannot be completed: a tag was altered; put it right in MLflow, or remove the version",
        )


class _Store:
    """Versions by ``name/version``; another family is read when an edge leads to it."""

    def __init__(self, name: str, entities: Entities) -> None:
        self.name = name
        self.versions: dict[str, ModelVersion] = {}
        self.buried: set[str] = set()
        self._read: set[str] = set()
        self._keep(name, entities)

    def find(self, version_id: str) -> ModelVersion | None:
        name = version_id.rpartition("/")[0]
        if name not in self._read:
            self._keep(name, find_entities(name) if name else None)
        return self.versions.get(version_id)

    def pinned_as(self, pin: Pin) -> list[ModelVersion]:
        """Versions of the examined family that are this model."""
        own = (entity for entity in self.versions.values() if entity.name == self.name)
        return [entity for entity in own if _pin(entity) == pin]

    def _keep(self, name: str, entities: Entities | None) -> None:
        self._read.add(name)
        if entities is not None:
            self.versions |= {f"{name}/{entity.version}": entity for entity in entities.versions}
            self.buried |= {stone.version.id for stone in tombstones_of(entities.model)}


def _check_edge(store: _Store, version: Version, role: str, parent: str, pin: Pin) -> Iterator[Finding]:
    """One edge: what it names is there, and is the model and the weights that it was pinned to."""
    target = store.find(parent)
    if target is not None:
        found = _pin(target)
        if found != pin:
            place, what = (0, "model id") if found[0] != pin[0] else (1, "weights")
            yield Finding(
                "re-created-name",
                version.uri,
                f"{version.uri} must have as {role} the {parent} of {what} {pin[place] or 'none'}, but that"
                f" has {found[place] or 'none'}: the name was given again, or a tag altered",
                _DEAD_END,
            )
    elif parent not in store.buried:
        same = store.pinned_as(pin) if role == "teacher" else []
        renamed = len(same) == 1 and str(same[0].version) != str(version.version)
        yield Finding(
            f"dangling-{role}",
            version.uri,
            f"{version.uri} must have its {role} {parent} in the store, but that is not there",
            f"the same model is now {store.name}/{same[0].version}, and the edge can be led there"
            if renamed
            else _DEAD_END,
            partial(_lead, version, same[0]) if renamed else None,
        )


def _lead(version: Version, teacher: ModelVersion) -> None:
    """Let the edge of ``version`` name its teacher as that is called since the family was renamed."""
    tags = {"teacher": f"{teacher.name}/{teacher.version}"}
    root_name, _, root_number = version.root.rpartition("/")
    if version.teacher is not None and root_name == version.teacher.rpartition("/")[0]:
        tags["root"] = f"{teacher.name}/{root_number}"
    for tag, value in tags.items():
        connect().set_model_version_tag(version.name, str(version.version), TAG + tag, value)


def _pin(entity: ModelVersion) -> Pin:
    return (entity.source or "").removeprefix("models:/"), entity.tags.get(TAG + "weights_sha256", "")


def _circular(parents: dict[str, set[str]]) -> list[str]:
    """What is left of a graph when those without parents, then those without children, are taken away."""
    for _ in range(2):
        edges = {node: set(above) for node, above in parents.items()}
        below: dict[str, list[str]] = {}
        for node, above in edges.items():
            for parent in above:
                below.setdefault(parent, []).append(node)
        free = [node for node, above in edges.items() if not above]
        while free:
            node = free.pop()
            del edges[node]
            for child in below.get(node, ()):
                edges[child].discard(node)
                if not edges[child]:
                    free.append(child)
        kept = edges.keys()
        # turned round, so that the second pass takes away those without children
        parents = {node: {child for child in below.get(node, ()) if child in kept} for node in kept}
    return sorted(parents)
