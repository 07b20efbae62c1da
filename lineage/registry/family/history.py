"""The history of a family: an append-only log in time-keyed tags of the registered model.

Each entry is a tag of its own, ``lineage.log.20261122T113205.123456Z-1a2b3c``, so that processes that write
at the same time lose nothing; entries are never changed or deleted. What others do, in MLflow's UI for
instance, leaves no entry: reading compares the log with the present state and marks what it infers.
"""

import getpass
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import RegisteredModel
from pydantic import TypeAdapter

from lineage.registry.family.family import logged_model_id
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.search import ModelWithVersions, read_model_with_versions

REGISTERED = "registered"
ALIAS = "alias"
REMOVED = "removed"

_LOG = TAG + "log."
_ECHO = 1000  # milliseconds
_STAMP = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class Event:
    """One change of a family.

    Attributes:
        event: ``registered``, ``alias`` or ``removed``.
        version: MLflow's version number; of an alias where it points now, None if it was deleted.
        alias: Name of the alias that moved.
        previous: Version number that the alias pointed to before, None if it was new.
        model_id: Id of the logged model that was registered or removed.
        user: User who made the change; "" if unknown.
        time: Milliseconds since the epoch; None if unknown.
        inferred: Whether the change is inferred from the state of the registry and not in the log.
    """

    event: str
    version: int | None
    alias: str = ""
    previous: int | None = None
    model_id: str = ""
    user: str = ""
    time: int | None = None
    inferred: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return asdict(self)


_ENTRY = TypeAdapter(dict[str, Any])
_EVENT = TypeAdapter(Event)


@translated_errors()
def record(name: str, *events: Event) -> None:
    """Append ``events`` to the log of the registered model ``name``, with the present user and time."""
    client = connect()
    for event in events:
        now = datetime.now(UTC)
        entry = asdict(replace(event, user=_user()))
        contents = {key: value for key, value in entry.items() if value not in (None, "", False)}
        client.set_registered_model_tag(
            name, f"{_LOG}{now.strftime(_STAMP)}-{secrets.token_hex(3)}", json.dumps(contents)
        )


@translated_errors()
def read_history(name: str) -> tuple[Event, ...]:
    """Return the events of ``name``, oldest first, with changes by others inferred and marked.

    A registration that was not logged has the time of its version. The time of an alias move or a deletion by
    others is unknown: it stands before the entry that contradicts it, or at the end.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
        RegistryError: If the store does not answer.
    """
    stored = read_model_with_versions(name)
    logged = logged_events(stored.model)
    known = {event.version for event in logged if event.event == REGISTERED}
    unlogged = [
        Event(
            REGISTERED,
            int(entity.version),
            model_id=logged_model_id(entity),
            time=int(entity.creation_timestamp or 0),
            inferred=True,
        )
        for entity in stored.versions
        if int(entity.version) not in known
    ]
    aliases: dict[str, int] = {}
    by_time = sorted([*logged, *unlogged], key=lambda event: event.time or 0)
    events = list(_with_unlogged_moves(by_time, aliases))
    return (*events, *_changes_since(events, aliases, stored))


def logged_events(model: RegisteredModel) -> list[Event]:
    """Return the events in the log, oldest first; altered entries are left out."""
    read = (_event(key, value) for key, value in sorted(model.tags.items()) if key.startswith(_LOG))
    return [event for event in read if event is not None]


def _event(key: str, value: str) -> Event | None:
    try:
        stamp = datetime.strptime(key.removeprefix(_LOG).partition("-")[0], _STAMP).replace(tzinfo=UTC)
        contents = {"version": None} | _ENTRY.validate_json(value)
        return _EVENT.validate_python(contents | {"time": int(stamp.timestamp() * 1000)})
    except ValueError:
        return None


def _with_unlogged_moves(events: Iterable[Event], aliases: dict[str, int]) -> Iterator[Event]:
    """Yield ``events``, each alias move after those by others that it implies.

    Args:
        events: Events, oldest first.
        aliases: Version number of each alias; updated along the way.
    """
    last_moves: dict[str, Event] = {}
    for event in events:
        if event.event == REMOVED:
            for alias in [alias for alias, version in aliases.items() if version == event.version]:
                del aliases[alias]  # MLflow deletes them with the version
        elif event.event == ALIAS:
            before = aliases.get(event.alias)
            if event.previous not in (None, before) and not _is_echo(event, last_moves.get(event.alias)):
                yield Event(ALIAS, event.previous, event.alias, before, inferred=True)
            if event.version is None:
                aliases.pop(event.alias, None)
            else:
                aliases[event.alias] = event.version
            last_moves[event.alias] = event
        yield event


def _changes_since(
    events: list[Event], aliases: dict[str, int], stored: ModelWithVersions
) -> Iterator[Event]:
    """Yield changes by others after the last entry: deleted versions, and aliases that point elsewhere."""
    present = {int(entity.version) for entity in stored.versions}
    removed = {event.version for event in events if event.event == REMOVED}
    for event in events:
        if event.event == REGISTERED and event.version not in present | removed:
            yield replace(event, event=REMOVED, user="", time=None, inferred=True)
    now = {alias: int(number) for alias, number in stored.model.aliases.items()}
    for alias in sorted({*aliases, *now}):
        if aliases.get(alias) != now.get(alias):
            yield Event(ALIAS, now.get(alias), alias, aliases.get(alias), inferred=True)


def _is_echo(event: Event, last: Event | None) -> bool:
    """Tell whether two processes that settled at the same time logged one and the same move."""
    if last is None or (event.version, event.previous) != (last.version, last.previous):
        return False
    return (event.time or 0) - (last.time or 0) <= _ECHO


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return ""
