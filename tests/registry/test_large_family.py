import time
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.registry.family.family import Version
from lineage.registry.family.lookup import ancestors_of, descendants_of, read_family

NUM_VERSIONS = 10_000
NUM_METRICS = 12


@pytest.fixture
def large(
    sqlite_registry: Any,
    name: str,
    add_version: Callable[..., Version],
    multiply: Callable[[str, str, int], None],
) -> str:
    """A family of ten thousand: a thousand chains of ten, with all tags of students and a log."""
    metrics = {f"test_metric_{number}": number / 7 for number in range(NUM_METRICS)}
    add_version(add_version(metrics=metrics), metrics=metrics | {"validation_accuracy": 0.8})
    multiply(sqlite_registry.uri, name, NUM_VERSIONS)
    return name


@pytest.mark.no_cover
def test_ten_thousand_versions_are_read_in_little_more_than_mlflows_own_search(large: str) -> None:
    read_family(large)  # what a running process has behind it
    search, read = [], []
    for _ in range(3):
        begin = time.process_time()
        MlflowClient().search_model_versions(f"name = '{large}'", max_results=NUM_VERSIONS)
        middle = time.process_time()
        family = read_family(large)
        search.append(middle - begin)
        read.append(time.process_time() - middle)
    assert min(read) <= 2 * min(search)
    assert [version.version for version in family] == list(range(1, NUM_VERSIONS + 1))
    last = family.versions[-2]
    assert [version.version for version in family.ancestors(last)] == [*range(9998, 9989, -1), 1]
    assert len(last.metrics) == NUM_METRICS + 1


@pytest.mark.slow
def test_relatives_among_ten_thousand_are_found_in_seconds(large: str) -> None:
    family = read_family(large)
    begin = time.process_time()
    above, below = ancestors_of(family.versions[-2]), descendants_of(family.versions[0])
    assert time.process_time() - begin <= 10
    assert (len(above), len(below)) == (10, NUM_VERSIONS - 1)
