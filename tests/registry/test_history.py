import getpass
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mlflow import MlflowClient

from lineage.errors import NotFoundError
from lineage.registry.care.remove import remove
from lineage.registry.family.aliases import promote
from lineage.registry.family.family import Version
from lineage.registry.family.history import ALIAS, REGISTERED, REMOVED, Event, read_history, record
from lineage.registry.family.register import settle

AddVersion = Callable[..., Version]
History = list[tuple[str, int | None, str, int | None, bool]]


def history(name: str) -> History:
    return [(e.event, e.version, e.alias, e.previous, e.inferred) for e in read_history(name)]


def entries(name: str) -> dict[str, str]:
    tags = MlflowClient().get_registered_model(name).tags
    return {key: value for key, value in tags.items() if key.startswith("lineage.log.")}


def test_registrations_moves_and_removals_are_logged(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    patriarch = add_version()
    student = add_version(patriarch)
    promote(patriarch.uri, "champion")
    promote(student.uri, "champion")
    remove(student.uri)
    assert history(name) == [
        (REGISTERED, 1, "", None, False),
        (ALIAS, 1, "latest-generation", None, False),
        (REGISTERED, 2, "", None, False),
        (ALIAS, 2, "latest-generation", 1, False),
        (ALIAS, 1, "champion", None, False),
        (ALIAS, 2, "champion", 1, False),
        (REMOVED, 2, "", None, False),
        (ALIAS, 1, "latest-generation", None, False),
    ]


def test_entries_have_time_and_user(registry: Any, name: str, add_version: AddVersion) -> None:
    before = time.time() * 1000
    version = add_version()
    first = read_history(name)[0]
    assert first.time is not None
    assert before - 1 <= first.time <= time.time() * 1000
    assert (first.user, first.model_id) == (getpass.getuser(), version.model_id)


def test_log_is_append_only(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    before = entries(name)
    add_version()
    settle(name)
    after = entries(name)
    assert before.items() < after.items()
    assert sorted(after)[: len(before)] == sorted(before)


def test_settling_a_settled_family_logs_nothing(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    before = entries(name)
    settle(name)
    assert entries(name) == before


def test_moves_by_others_are_inferred_and_marked(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    add_version()
    client = MlflowClient()
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "latest-generation", "1")
    assert history(name)[-2:] == [
        (ALIAS, 1, "champion", None, True),
        (ALIAS, 1, "latest-generation", 2, True),
    ]
    assert [event.time for event in read_history(name)[-2:]] == [None, None]
    client.delete_registered_model_alias(name, "champion")
    assert len(history(name)) == 5


def test_move_by_others_stands_before_the_entry_that_contradicts_it(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    add_version()
    second = add_version()
    MlflowClient().set_registered_model_alias(name, "latest-generation", "1")
    time.sleep(1.1)  # sooner, it might be the entry of another process that settled
    settle(name)
    assert history(name)[-2:] == [
        (ALIAS, 1, "latest-generation", 2, True),
        (ALIAS, second.version, "latest-generation", 1, False),
    ]


def test_version_deleted_by_others_is_inferred(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    add_version()
    MlflowClient().delete_model_version(name, "2")
    assert history(name)[-2:] == [
        (REMOVED, 2, "", None, True),
        (ALIAS, None, "latest-generation", 2, True),
    ]


def test_version_registered_by_others_has_the_time_it_was_made(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    version = add_version()
    made = MlflowClient().create_model_version(name, f"models:/{version.model_id}", model_id=version.model_id)
    last = read_history(name)[-1]
    assert (last.event, last.version, last.inferred) == (REGISTERED, 2, True)
    assert last.time == made.creation_timestamp


def test_move_that_two_processes_log_is_no_move_by_others(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    add_version()
    add_version()
    record(name, Event(ALIAS, 2, "latest-generation", 1))
    assert not any(event.inferred for event in read_history(name))


def test_altered_entries_are_left_out(registry: Any, name: str, add_version: AddVersion) -> None:
    add_version()
    client = MlflowClient()
    client.set_registered_model_tag(name, "lineage.log.20200101T000000.000000Z-a", "{")
    client.set_registered_model_tag(name, "lineage.log.yesterday", json.dumps({"event": ALIAS}))
    contents = (
        {"event": 5},
        {"event": ALIAS, "version": [1]},
        {"event": REGISTERED, "version": "one"},
        [ALIAS],
    )
    for number, altered in enumerate(contents):
        tag = f"lineage.log.20200101T000000.00000{number}Z-b"
        client.set_registered_model_tag(name, tag, json.dumps(altered))
    client.set_registered_model_tag(name, "lineage.log.20200101T000000.000009Z-c", "[" * 5000)
    assert len(history(name)) == 2


def test_processes_that_write_at_a_time_lose_no_entry(
    registry: Any, name: str, add_version: AddVersion
) -> None:
    add_version()
    before = len(entries(name))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: record(name, Event(ALIAS, 1, f"a{number}")), range(12)))
    assert len(entries(name)) == before + 12


def test_history_of_a_family_that_is_not_there_is_not_found(registry: Any, name: str) -> None:
    with pytest.raises(NotFoundError, match=f"holds no registered model '{name}'"):
        read_history(name)
