"""The examination of a family: all checks in a row, weights included, and the repairs that are possible."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import mlflow

from lineage.errors import IntegrityError, NotFoundError
from lineage.formats import counted
from lineage.registry.care.checks import (
    Diagnosis,
    Finding,
    check_aliases,
    check_cards,
    check_circles,
    check_double_keys,
    check_edges,
    check_tombstones,
)
from lineage.registry.care.leftovers import check_logged_models, check_runs, check_soft_targets
from lineage.registry.care.weights import check_weights
from lineage.registry.family.family import Family, from_model_version
from lineage.registry.store.connection import translated_errors
from lineage.registry.store.database import database_file
from lineage.registry.store.moves import find_moves, make_whole
from lineage.registry.store.search import read_model_with_versions

_NAMED_VERSIONS = 10


@translated_errors()
def examine(
    name: str,
    has_local_state: Callable[[str], bool],
    *,
    fix: bool = False,
    kill_runs: bool = False,
    weights: bool = True,
) -> Diagnosis:
    """Examine everything that the registry holds of a family.

    Args:
        name: Name of the registered model.
        has_local_state: Function that tells whether the generation of a key can be continued on this machine.
        fix: Whether to complete what can be completed.
        kill_runs: Whether that includes marking dead runs as KILLED; one that cannot be continued on this
            machine may be alive on another.
        weights: Whether to pull every model and compare its digest.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
        RegistryError: If the store does not answer.
    """
    examination = _Examination(name, has_local_state, kill_runs)
    num_versions = len(examination.stored.versions)
    of_weights = list(check_weights(examination.family)) if weights else []
    findings = [*examination.check_all(), *of_weights]
    notes = _notes(examination.family) if weights else ()
    if not fix:
        return Diagnosis(name, num_versions, tuple(findings), notes=notes)
    for finding in findings:
        if finding.repair is not None:
            with suppress(IntegrityError, NotFoundError):  # the second examination finds it again
                finding.repair()
    left = [*_Examination(name, has_local_state, kill_runs).check_all(), *of_weights]
    fixed = tuple(finding for finding in findings if finding not in left)
    return Diagnosis(name, num_versions, tuple(left), fixed, notes)


class _Examination:
    """One examination of a family; other families are read when an edge leads to them.

    Args:
        name: Name of the registered model.
        has_local_state: Function that tells whether the generation of a key can be continued on this machine.
        kill_runs: Whether to offer to mark dead runs as KILLED.
    """

    def __init__(self, name: str, has_local_state: Callable[[str], bool], kill_runs: bool) -> None:
        self.has_local_state = has_local_state
        self.kill_runs = kill_runs
        self.stored = read_model_with_versions(name)
        self.unreadable: list[Finding] = []
        self.family = self._read_family()

    def check_all(self) -> Iterator[Finding]:
        """Yield the findings of all checks but that of the weights, which pulls every model."""
        yield from self.unreadable
        yield from check_place()
        yield from check_edges(self.family, self.stored)
        yield from check_circles(self.family)
        yield from check_double_keys(self.family)
        yield from check_aliases(self.family, self.stored)
        yield from check_cards(self.family, self.stored)
        yield from check_tombstones(self.stored)
        yield from check_runs(self.family, self.has_local_state, self.kill_runs)
        yield from check_logged_models(self.stored)
        yield from check_soft_targets(self.stored, self.kill_runs)

    def _read_family(self) -> Family:
        """Read the versions that can be read; the others become findings."""
        versions = []
        for entity in self.stored.versions:
            try:
                version = from_model_version(entity, tuple(entity.aliases))
            except IntegrityError as error:
                uri = f"models:/{entity.name}/{entity.version}"
                remedy = "cannot be completed: correct the tags in MLflow, or delete the version there"
                self.unreadable.append(Finding("unreadable-version", uri, str(error).rstrip("."), remedy))
                continue
            if version is not None:
                versions.append(version)
        return Family(self.stored.model.name, tuple(versions))


def check_place() -> Iterator[Finding]:
    """Find that the store was moved, which its database does not know."""
    database = database_file(mlflow.get_tracking_uri())
    if database is None:
        return
    for move in find_moves(database):
        yield Finding(
            "moved-store",
            str(move.present),
            "The artifacts of a store must be where its database says, but it was moved from"
            f" {move.former} to {move.present}",
            "its present place can be written into it, and artifacts that are not there yet be fetched",
            partial(make_whole, database),
        )


def _notes(family: Family) -> tuple[str, ...]:
    """Return a sentence about the versions of which weights alone can be verified."""
    old = [version for version in family if not version.files_sha256]
    if not old:
        return ()
    numbers = ", ".join(str(version.version) for version in old[:_NAMED_VERSIONS])
    return (
        f"{counted(len(old), 'version')} ({numbers}{', …' if len(old) > _NAMED_VERSIONS else ''}) registered"
        " without a digest of all files: of these, only the weights were verified.",
    )
