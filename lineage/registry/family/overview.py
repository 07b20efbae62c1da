"""All families of a store in brief, without reading each of them whole; imports no torch."""

from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from lineage.registry.family.aliases import BEST
from lineage.registry.family.family import Version, from_model_version
from lineage.registry.store.connection import translated_errors
from lineage.registry.store.search import newest_version, search_families


@dataclass(frozen=True)
class FamilyOverview:
    """A family in brief.

    Attributes:
        name: Name of the registered model.
        newest: Highest number of its versions; 0 if it has none.
        best: Version with the alias ``best``; None if there is none.
        updated: Time of the last change, in milliseconds since the epoch.
    """

    name: str
    newest: int
    best: Version | None
    updated: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        best = None if self.best is None else self.best.to_json()
        return {"name": self.name, "newest": self.newest, "best": best, "updated": self.updated}


@translated_errors()
def families() -> tuple[FamilyOverview, ...]:
    """Return all families of the store in use, last changed first.

    Raises:
        RegistryError: If the store does not answer.
        IntegrityError: If the tags of a best version were altered.

    Examples:
        >>> [family.name for family in lineage.families()]
        ['digits']
    """
    return tuple(map(overview_of, search_families()))


def overview_of(model: RegisteredModel) -> FamilyOverview:
    """Return a registered model in brief, with two requests at most."""
    newest = newest_version(model.name)
    return FamilyOverview(
        model.name,
        0 if newest is None else int(newest.version),
        _best_of(model),
        model.last_updated_timestamp,
    )


def _best_of(model: RegisteredModel) -> Version | None:
    if BEST not in model.aliases:
        return None
    entity = MlflowClient().get_model_version(model.name, model.aliases[BEST])
    return from_model_version(entity, (BEST,))
