"""A family examined: edges, weights, aliases, cards, loose ends; and what can be completed, completed."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from lineage.errors import IntegrityError, LineageError, NotFoundError, RegistryError
from lineage.registry.care.findings import Diagnosis, Finding
from lineage.registry.care.history import ALIAS, Event, record
from lineage.registry.care.remove import TOMBSTONE, tombstones_of
from lineage.registry.care.soft_targets import check_soft_targets
from lineage.registry.care.unfinished import check_logged_models, check_runs
from lineage.registry.family.cards import mended
from lineage.registry.family.edges import check_circles, check_edges
from lineage.registry.family.family import Family, Version, from_model_version
from lineage.registry.family.register import linked_students, settle, wanted_aliases
from lineage.registry.flavor import load_version
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.entities import read_entities


@translated_errors()
def examine(
    name: str,
    has_local_state: Callable[[str], bool],
    *,
    fix: bool = False,
    kill_runs: bool = False,
    weights: bool = True,
) -> Diagnosis:
    """Look at everything that the registry holds of a family.

    Args:
        name: Of the registered model.
        has_local_state: Whether a generation of some key can be continued on this machine.
        fix: Whether to complete what can be completed.
        kill_runs: Whether that includes marking dead runs as KILLED; one that cannot be continued on this
            machine may be alive on another.
        weights: Whether to pull every model and compare its digest.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
        RegistryError: If the store does not answer.
    """
    before = _Examination(name, has_local_state, kill_runs)
    of_weights = list(before.check_weights()) if weights else []
    found = [*before.check_all(), *of_weights]
    if not fix:
        return Diagnosis(name, len(before.entities.versions), tuple(found))
    for finding in found:
        if finding.repair is not None:
            with suppress(IntegrityError, NotFoundError):  # then it is found again
                finding.repair()
    left = [*_Examination(name, has_local_state, kill_runs).check_all(), *of_weights]
    fixed = tuple(finding for finding in found if finding not in left)
    return Diagnosis(name, len(before.entities.versions), tuple(left), fixed)


class _Examination:
    """One look at a family; other families are read when an edge leads to them.

    Args:
        name: Of the registered model.
        has_local_state: Whether a generation of some key can be continued on this machine.
        kill_runs: Whether dead runs are to be marked.
    """

    def __init__(self, name: str, has_local_state: Callable[[str], bool], kill_runs: bool) -> None:
        self.name = name
        self.has_local_state = has_local_state
        self.kill_runs = kill_runs
        self.entities = read_entities(name)
        self.unreadable: list[Finding] = []
        self.by_number = {str(entity.version): entity for entity in self.entities.versions}
        self.family = Family(name, tuple(self._readable()))

    def check_all(self) -> Iterator[Finding]:
        """Everything but the weights, which are many bytes."""
        yield from self.unreadable
        yield from check_edges(self.family, self.entities)
        yield from check_circles(self.family)
        yield from self._check_aliases()
        yield from self._check_cards()
        yield from self._check_tombstones()
        yield from check_runs(self.family, self.has_local_state, self.kill_runs)
        yield from check_logged_models(self.entities)
        yield from check_soft_targets(self.entities, self.kill_runs)

    def check_weights(self) -> Iterator[Finding]:
        """Weights that are missing, altered or do not load; those that versions share are pulled once."""
        known: dict[tuple[str, str], LineageError | None] = {}
        for version in self.family:
            weights = (version.model_id, version.weights_sha256)
            if weights not in known:
                try:
                    load_version(version)
                    known[weights] = None
                except RegistryError:
                    raise
                except LineageError as error:
                    known[weights] = error
            error_found = known[weights]
            if error_found is not None:
                check = "missing-weights" if isinstance(error_found, NotFoundError) else "altered-weights"
                yield Finding(
                    check,
                    version.uri,
                    str(error_found).rstrip("."),
                    "cannot be completed: restore the artifacts from a backup",
                )

    def _readable(self) -> Iterator[Version]:
        for entity in self.entities.versions:
            try:
                version = from_model_version(entity, tuple(entity.aliases))
            except IntegrityError as error:
                uri = f"models:/{self.name}/{entity.version}"
                remedy = "cannot be completed: put the tags right in MLflow, or delete the version there"
                self.unreadable.append(Finding("unreadable-version", uri, str(error).rstrip("."), remedy))
                continue
            if version is not None:
                yield version

    def _check_aliases(self) -> Iterator[Finding]:
        for alias, number in sorted(self.entities.model.aliases.items()):
            if str(number) not in self.by_number:
                yield Finding(
                    "alias-at-nothing",
                    f"@{alias}",
                    f"The alias {alias} must point to a version, but {self.name}/{number} is not there",
                    "the alias can be taken away",
                    partial(self._drop_alias, alias, int(number)),
                )
        held = {alias: version for version in self.family for alias in version.aliases}
        for alias, wanted in wanted_aliases(self.family).items():
            if held.get(alias) != wanted:
                place = "nothing" if alias not in held else held[alias].id
                yield Finding(
                    "misplaced-alias",
                    f"@{alias}",
                    f"The alias {alias} must point to {wanted.id if wanted else 'nothing'}, but points to"
                    f" {place}",
                    "the alias can be moved",
                    self._settle,
                )

    def _check_cards(self) -> Iterator[Finding]:
        linked = linked_students(self.family)
        for version in self.family:
            text = self.by_number[str(version.version)].description or ""
            students = linked[version.id]
            if mended(text, version, self.family.teacher(version), students) != text:
                links = ", ".join(students) or "no students"
                yield Finding(
                    "broken-card",
                    version.uri,
                    f"The card of {version.uri} must link {links}, but does not",
                    "the card can be written",
                    self._settle,
                )

    def _check_tombstones(self) -> Iterator[Finding]:
        for stone in tombstones_of(self.entities.model):
            number = str(stone.version.version)
            if number in self.by_number:
                yield Finding(
                    "unfinished-removal",
                    stone.version.uri,
                    f"{stone.version.uri} must be gone, since it has a tombstone, but is there",
                    "the tombstone can be taken away; remove the version again if you mean to",
                    partial(connect().delete_registered_model_tag, self.name, TOMBSTONE + number),
                )

    def _drop_alias(self, alias: str, number: int) -> None:
        connect().delete_registered_model_alias(self.name, alias)
        record(self.name, Event(ALIAS, None, alias, number))

    def _settle(self) -> None:
        settle(self.name)
