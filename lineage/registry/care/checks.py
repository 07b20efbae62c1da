"""Checks of a family's versions: edges, circles, aliases, cards and tombstones; imports no torch.

Each check yields findings, each with its repair if there is one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from lineage.registry.care.remove import TOMBSTONE, remove, tombstones_of
from lineage.registry.family.aliases import move_alias, wanted_aliases
from lineage.registry.family.cards import corrected_card
from lineage.registry.family.family import Family, Version, logged_model_id, model_name
from lineage.registry.family.lookup import linked_students
from lineage.registry.family.register import settle
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect
from lineage.registry.store.search import ModelWithVersions, find_model_with_versions

_DEAD_END = "cannot be completed: restore the store from a backup, or remove the version that depends on it"

Pin = tuple[str, str]  # model id, SHA-256 of the weights


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be.

    Attributes:
        check: Name of the check, such as ``dangling-teacher``.
        subject: URI of a version, or name of an alias, run or model.
        problem: Sentence that says what must hold and what was found.
        remedy: Action that completes it, or the reason why nothing does and what to do.
        repair: Function that completes it; None if nothing does.
    """

    check: str
    subject: str
    problem: str
    remedy: str
    repair: Callable[[], object] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "check": self.check,
            "subject": self.subject,
            "problem": self.problem,
            "remedy": self.remedy,
            "fixable": self.repair is not None,
        }


@dataclass(frozen=True)
class Diagnosis:
    """The outcome of an examination.

    Attributes:
        name: Name of the registered model.
        num_versions: Number of versions examined.
        findings: Things that are not as they must be.
        fixed: Things that were not, and are now.
        notes: Sentences about what was not examined, which is no finding.
    """

    name: str
    num_versions: int
    findings: tuple[Finding, ...]
    fixed: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "name": self.name,
            "versions": self.num_versions,
            "healthy": self.healthy,
            "findings": [finding.to_json() for finding in self.findings],
            "fixed": [finding.to_json() for finding in self.fixed],
            "notes": list(self.notes),
        }


def check_edges(family: Family, stored: ModelWithVersions) -> Iterator[Finding]:
    """Find teachers and members that are gone without a tombstone, or are not what they were."""
    store = _Store(stored)
    for version in family:
        if version.teacher is not None:
            pin = (version.teacher_model_id, version.teacher_sha256)
            yield from _check_edge(store, version, "teacher", version.teacher, pin)
        for member in version.members:
            pin = (member.model_id, member.weights_sha256)
            yield from _check_edge(store, version, "member", member.id, pin)


def check_circles(family: Family) -> Iterator[Finding]:
    """Find versions that descend from themselves within the family."""
    import networkx as nx  # an eighth of a second, which only an examination pays

    graph = nx.DiGraph((parent, version.id) for version in family for parent in version.parents)
    for circle in nx.strongly_connected_components(graph):
        for version_id in sorted(circle):
            through = sorted(circle.intersection(graph.predecessors(version_id)))
            if through:
                yield Finding(
                    "circle",
                    f"models:/{version_id}",
                    f"models:/{version_id} must not descend from itself, but does, through"
                    f" {', '.join(through)}",
                    "cannot be completed: a tag was altered; correct it in MLflow, or remove the version",
                )


def check_double_keys(family: Family) -> Iterator[Finding]:
    """Find versions whose key an earlier one has; students first, so that removing them goes through."""
    for version in reversed(family.versions):
        first = family.with_key(version.key)
        if first is None or first.version == version.version:
            continue
        doubled = all(
            other.key and family.with_key(other.key) != other for other in family.descendants(version)
        )
        chosen = sorted(set(version.aliases) - wanted_aliases(family).keys())
        if chosen:
            remedy = f"cannot be completed while the alias {chosen[0]} points to it: point that to {first.id}"
        elif not doubled:
            remedy = "cannot be completed: other versions descend from it; remove those first, or leave both"
        else:
            remedy = f"{version.uri} can be removed"
        yield Finding(
            "double-key",
            version.uri,
            f"{version.uri} must be the only version with the key {version.key[:12]}…, but"
            f" {first.uri} has it, too",
            remedy,
            partial(remove, version.uri) if doubled and not chosen else None,
        )


def check_aliases(family: Family, stored: ModelWithVersions) -> Iterator[Finding]:
    """Find aliases that point to nothing, and those of ``lineage`` that point to the wrong version."""
    numbers = {str(entity.version) for entity in stored.versions}
    for alias, number in sorted(stored.model.aliases.items()):
        if str(number) not in numbers:
            yield Finding(
                "alias-at-nothing",
                f"@{alias}",
                f"The alias {alias} must point to a version, but {family.name}/{number} is not there",
                "the alias can be taken away",
                partial(move_alias, family.name, alias, None, int(number)),
            )
    current = {alias: version for version in family for alias in version.aliases}
    for alias, wanted in wanted_aliases(family).items():
        if current.get(alias) != wanted:
            place = "nothing" if alias not in current else current[alias].id
            yield Finding(
                "misplaced-alias",
                f"@{alias}",
                f"The alias {alias} must point to {wanted.id if wanted else 'nothing'}, but points to"
                f" {place}",
                "the alias can be moved",
                partial(settle, family.name),
            )


def check_cards(family: Family, stored: ModelWithVersions) -> Iterator[Finding]:
    """Find cards whose links to students are missing or wrong."""
    descriptions = {int(entity.version): entity.description or "" for entity in stored.versions}
    students_of = linked_students(family)
    for version in family:
        text, students = descriptions[version.version], students_of[version.id]
        if corrected_card(text, version, family.teacher(version), students) != text:
            yield Finding(
                "broken-card",
                version.uri,
                f"The card of {version.uri} must link {', '.join(students) or 'no students'}, but does not",
                "the card can be written",
                partial(settle, family.name),
            )


def check_tombstones(stored: ModelWithVersions) -> Iterator[Finding]:
    """Find tombstones of versions that are still there, which an interrupted removal leaves."""
    numbers = {str(entity.version) for entity in stored.versions}
    for tombstone in tombstones_of(stored.model):
        number, uri = str(tombstone.version.version), tombstone.version.uri
        if number in numbers:
            yield Finding(
                "unfinished-removal",
                uri,
                f"{uri} must be gone, since it has a tombstone, but is there",
                "the tombstone can be taken away; remove the version again if you mean to",
                partial(connect().delete_registered_model_tag, stored.model.name, TOMBSTONE + number),
            )


class _Store:
    """Model versions by ``name/version``; another family is read when an edge leads to it.

    Args:
        stored: The family that is examined.
    """

    def __init__(self, stored: ModelWithVersions) -> None:
        self.name = stored.model.name
        self.versions: dict[str, ModelVersion] = {}
        self.removed: set[str] = set()
        self._read = {self.name}
        self._add(stored)

    def find(self, version_id: str) -> ModelVersion | None:
        name = model_name(version_id)
        if name not in self._read:
            self._read.add(name)
            stored = find_model_with_versions(name)
            if stored is not None:
                self._add(stored)
        return self.versions.get(version_id)

    def pinned_as(self, pin: Pin) -> list[ModelVersion]:
        """Return versions of the examined family that are this model."""
        own = (entity for entity in self.versions.values() if entity.name == self.name)
        return [entity for entity in own if _pin(entity) == pin]

    def _add(self, stored: ModelWithVersions) -> None:
        self.versions |= {f"{entity.name}/{entity.version}": entity for entity in stored.versions}
        self.removed |= {tombstone.version.id for tombstone in tombstones_of(stored.model)}


def _check_edge(store: _Store, version: Version, role: str, parent: str, pin: Pin) -> Iterator[Finding]:
    """Check that the parent is there and has the model id and weights that its edge is pinned to."""
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
    elif parent not in store.removed:
        same = store.pinned_as(pin) if role == "teacher" else []
        renamed = len(same) == 1 and str(same[0].version) != str(version.version)
        yield Finding(
            f"dangling-{role}",
            version.uri,
            f"{version.uri} must have its {role} {parent} in the store, but that is not there",
            f"the same model is now {store.name}/{same[0].version}, and the edge can be led there"
            if renamed
            else _DEAD_END,
            partial(_rename_teacher, version, same[0]) if renamed else None,
        )


def _rename_teacher(version: Version, teacher: ModelVersion) -> None:
    """Let the edge of ``version`` name its teacher by the name it has since the family was renamed."""
    tags = {"teacher": f"{teacher.name}/{teacher.version}"}
    root_name, _, root_number = version.root.rpartition("/")
    if version.teacher is not None and root_name == model_name(version.teacher):
        tags["root"] = f"{teacher.name}/{root_number}"
    for tag, value in tags.items():
        connect().set_model_version_tag(version.name, str(version.version), TAG + tag, value)


def _pin(entity: ModelVersion) -> Pin:
    return logged_model_id(entity), entity.tags.get(TAG + "weights_sha256", "")
