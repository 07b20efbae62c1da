from collections.abc import Callable
from typing import Any

import pytest

from lineage.errors import UsageError
from lineage.registry.family.aliases import promote
from lineage.registry.family.family import Version
from lineage.registry.family.history import read_history
from lineage.registry.family.lookup import find_version

AddVersion = Callable[..., Version]


def test_alias_moves_to_the_version(registry: Any, name: str, add_version: AddVersion) -> None:
    first, second = add_version(), add_version()
    assert "champion" in promote(first.uri, "champion").aliases
    assert "champion" in promote(second.uri, "champion").aliases
    assert find_version(f"models:/{name}@champion").id == second.id


def test_alias_that_is_there_is_not_moved_twice(registry: Any, name: str, add_version: AddVersion) -> None:
    version = add_version()
    promote(version.uri, "champion")
    before = read_history(name)
    promote(version.uri, "champion")
    assert read_history(name) == before


@pytest.mark.parametrize(
    ("alias", "sentence"),
    [
        ("best", "must not be best or latest-generation, which lineage moves by itself, but got 'best'"),
        ("Latest-Generation", "which lineage moves by itself, but got 'Latest-Generation'"),
        ("latest", "must not be latest or v<N>, which MLflow reserves, but got 'latest'"),
        ("v3", "which MLflow reserves, but got 'v3'"),
        ("a b", "must be made of letters, digits, '_' and '-', but got 'a b'"),
        ("", "but got ''"),
    ],
)
def test_reserved_and_impossible_aliases_are_refused(home: object, alias: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        promote("models:/digits/1", alias)
