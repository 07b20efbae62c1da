from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.registry.family.family import Version
from lineage.registry.family.lookup import ancestors_of, descendants_of, read_family

NUM_METRICS = 12


@pytest.fixture(params=[1000, pytest.param(10_000, marks=pytest.mark.slow)])
def num_versions(request: pytest.FixtureRequest) -> int:
    """Size of the large family."""
    return int(request.param)


@pytest.fixture
def large(
    num_versions: int,
    sqlite_registry: Any,
    name: str,
    add_version: Callable[..., Version],
    multiply: Callable[[str, str, int], None],
) -> str:
    """A family of chains of ten, with all tags of students and a log."""
    metrics = {f"test_metric_{number}": number / 7 for number in range(NUM_METRICS)}
    add_version(add_version(metrics=metrics), metrics=metrics | {"validation_accuracy": 0.8})
    multiply(sqlite_registry.uri, name, num_versions)
    return name


@pytest.mark.no_cover
def test_large_family_is_read_in_little_more_than_mlflows_own_search(
    large: str, num_versions: int, count_calls: Callable[[Callable[[], object]], int]
) -> None:
    family = read_family(large)
    client, condition = MlflowClient(), f"name = '{large}'"
    search = count_calls(lambda: client.search_model_versions(condition, max_results=num_versions))
    assert count_calls(lambda: read_family(large)) <= 1.5 * search
    assert [version.version for version in family] == list(range(1, num_versions + 1))
    last = family.versions[-2]
    assert [version.version for version in family.ancestors(last)] == [
        *range(num_versions - 2, num_versions - 11, -1),
        1,
    ]
    assert len(last.metrics) == NUM_METRICS + 1


def test_relatives_in_a_large_family_are_found(large: str, num_versions: int) -> None:
    family = read_family(large)
    above, below = ancestors_of(family.versions[-2]), descendants_of(family.versions[0])
    assert (len(above), len(below)) == (10, num_versions - 1)
