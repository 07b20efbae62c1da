import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.registry.ancestry import Version
from lineage.registry.kin import ancestors_of, descendants_of
from lineage.registry.versions import read_family

NUM_VERSIONS = 10_000
NUM_METRICS = 12


@pytest.fixture
def large(sqlite_registry: Any, name: str, beget: Callable[..., Version]) -> str:
    """A family of ten thousand: a thousand chains of ten, with all tags of students and words of the log."""
    metrics = {f"test_metric_{number}": number / 7 for number in range(NUM_METRICS)}
    beget(beget(metrics=metrics), metrics=metrics | {"validation_accuracy": 0.8})
    tags = MlflowClient().get_registered_model(name).tags
    word = next(value for key, value in tags.items() if key.startswith("lineage.log."))
    with closing(sqlite3.connect(sqlite_registry.uri.removeprefix("sqlite:///"))) as database, database:
        for table in ("model_versions", "model_version_tags"):
            cursor = database.execute(f"SELECT * FROM {table} WHERE name = ? AND version = 2", [name])
            columns = [column[0] for column in cursor.description]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor]
            copies = (_copy(row, number, name) for number in range(3, NUM_VERSIONS + 1) for row in rows)
            places = ", ".join(f":{column}" for column in columns)
            database.executemany(f"INSERT INTO {table} VALUES ({places})", copies)
        database.executemany(
            "INSERT INTO registered_model_tags (name, key, value) VALUES (?, ?, ?)",
            ((name, f"lineage.log.20260101T000000.{number:06d}Z-0", word) for number in range(NUM_VERSIONS)),
        )
    return name


def _copy(row: dict[str, Any], number: int, name: str) -> dict[str, Any]:
    changed = row | {"version": number}
    if row.get("key") == "lineage.teacher":
        changed["value"] = f"{name}/{number - 1 if number % 10 else 1}"
    elif row.get("key") == "lineage.key":
        changed["value"] = f"{number:064x}"
    return changed


@pytest.mark.slow
@pytest.mark.no_cover
def test_ten_thousand_versions_are_read_in_three_seconds(large: str) -> None:
    read_family(large)  # what a running process has behind it
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        family = read_family(large)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) <= 3
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
