"""Aliases that people give."""

import re

from lineage.errors import UsageError
from lineage.registry.care.history import ALIAS, Event, record
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.family.register import BEST, LATEST_GENERATION, point
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.entities import model_versions

_OURS = (BEST, LATEST_GENERATION)
_MLFLOWS = re.compile(r"latest|v\d+", re.IGNORECASE)
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")


@translated_errors()
def promote(uri: str, alias: str) -> Version:
    """Point ``alias`` to a version, wherever it pointed before, and log the move.

    Returns:
        The version with its new alias.

    Raises:
        UsageError: If the alias is reserved or cannot be one, or ``uri`` has another form.
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
    held = [entity for entity in model_versions(version.name) if alias in entity.aliases]
    point(connect(), alias, version)
    previous = int(held[0].version) if held else None
    record(version.name, Event(ALIAS, version.version, alias, previous))
    return find_version(version.uri)
