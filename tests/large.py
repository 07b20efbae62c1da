"""Families that are too large to be grown in a test."""

import sqlite3
from contextlib import closing
from typing import Any


def multiply_family(uri: str, name: str, num_versions: int) -> None:
    """Enlarge a family in an sqlite store by copies of its second version, in chains of ten."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        for table in ("model_versions", "model_version_tags"):
            cursor = database.execute(f"SELECT * FROM {table} WHERE name = ? AND version = 2", [name])
            columns = [column[0] for column in cursor.description]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor]
            copies = (_copy(row, number, name) for number in range(3, num_versions + 1) for row in rows)
            places = ", ".join(f":{column}" for column in columns)
            database.executemany(f"INSERT INTO {table} VALUES ({places})", copies)
        (word,) = database.execute(
            "SELECT value FROM registered_model_tags WHERE name = ? AND key LIKE 'lineage.log.%' LIMIT 1",
            [name],
        ).fetchone()
        database.executemany(
            "INSERT INTO registered_model_tags (name, key, value) VALUES (?, ?, ?)",
            ((name, f"lineage.log.20260101T000000.{number:06d}Z-0", word) for number in range(num_versions)),
        )


def _copy(row: dict[str, Any], number: int, name: str) -> dict[str, Any]:
    changed = row | {"version": number}
    if row.get("key") == "lineage.teacher":
        changed["value"] = f"{name}/{number - 1 if number % 10 else 1}"
    elif row.get("key") == "lineage.key":
        changed["value"] = f"{number:064x}"
    return changed
