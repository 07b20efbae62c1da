"""Aliases of a family: those that ``lineage`` moves by itself, and those that people give."""

import re

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ErrorCode

from lineage.errors import UsageError
from lineage.registry.family.family import Family, Version
from lineage.registry.family.history import ALIAS, Event, record
from lineage.registry.family.lookup import find_version
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.search import find_model

BEST = "best"
LATEST_GENERATION = "latest-generation"

_OURS = (BEST, LATEST_GENERATION)
_MLFLOWS = re.compile(r"latest|v\d+", re.IGNORECASE)
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")


def wanted_aliases(family: Family) -> dict[str, Version | None]:
    """Return where the aliases that ``lineage`` moves should point; None for nowhere.

    ``best`` belongs to the highest validation accuracy, ``latest-generation`` to the highest generation, then
    the newest version. Ensembles and adopted networks get neither.
    """
    generations = [version for version in family if version.kind == "generation"]
    validated = [version for version in generations if "validation_accuracy" in version.metrics]
    return {
        LATEST_GENERATION: max(generations, key=lambda v: (v.generation, v.version), default=None),
        BEST: max(validated, key=lambda v: (v.metrics["validation_accuracy"], -v.version), default=None),
    }


@translated_errors()
def promote(uri: str, alias: str) -> Version:
    """Point ``alias`` to a version, wherever it pointed before, and log the move.

    Returns:
        The version with its new alias.

    Raises:
        UsageError: If the alias is reserved or impossible, or ``uri`` has another form.
        NotFoundError: If the store does not hold the version.
    """
    if alias.lower() in _OURS:
        raise UsageError(
            f"An alias must not be {' or '.join(_OURS)}, which lineage moves by itself, but got '{alias}';"
            " take another."
        )
    if _MLFLOWS.fullmatch(alias):
        raise UsageError(f"An alias must not be latest or v<N>, which MLflow reserves, but got '{alias}'.")
    if not _ALIAS.fullmatch(alias):
        raise UsageError(f"An alias must be made of letters, digits, '_' and '-', but got '{alias}'.")
    version = find_version(uri)
    if alias in version.aliases:
        return version
    point_alias(version, alias)
    return find_version(version.uri)


@translated_errors()
def point_alias(version: Version, alias: str) -> None:
    """Point ``alias`` to ``version`` and log the move, unless it points there already."""
    model = find_model(version.name)
    previous = None if model is None else model.aliases.get(alias)
    if previous is None or int(previous) != version.version:
        move_alias(version.name, alias, version.version, None if previous is None else int(previous))


def move_alias(name: str, alias: str, version: int | None, previous: int | None) -> None:
    """Set an alias of the registered model ``name``, or delete it where ``version`` is None, and log that."""
    client = connect()
    if version is None:
        client.delete_registered_model_alias(name, alias)
    else:
        try:
            client.set_registered_model_alias(name, alias, str(version))
        except MlflowException as error:
            # another process created it at the same moment, which MLflow reports as a fault
            if error.error_code != ErrorCode.Name(BAD_REQUEST):
                raise
            client.set_registered_model_alias(name, alias, str(version))
    record(name, Event(ALIAS, version, alias, previous))
