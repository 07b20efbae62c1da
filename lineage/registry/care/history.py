"""What happened to a family: an append-only log in time-keyed tags of the registered model.

Every word of the log is a tag of its own, ``lineage.log.20261122T113205.123456Z-1a2b3c``, so that processes
that write at a time lose nothing; no word is ever changed or taken away. What others do, in MLflow's UI for
instance, leaves no word: reading compares the log with what stands there now, and marks what it infers.
"""

import getpass
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import RegisteredModel

from lineage.registry.family.family import TAG
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.entities import Entities, read_entities

REGISTERED = "registered"
ALIAS = "alias"
REMOVED = "removed"

_LOG = TAG + "log."
_ECHO = 1000  # milliseconds
_STAMP = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class Event:
    """One thing that happened to a family.

    Attributes:
        event: ``registered``, ``alias`` or ``removed``.
        version: MLflow's number; of an alias where it points now, None where it was taken away.
        alias: Its name, for a move of one.
        previous: Where an alias pointed before, None where it was new.
        model_id: Of the logged model, for a registration or removal.
        user: Who did it; "" where that is not known.
        time: Milliseconds since the epoch; None where that is not known.
        inferred: Whether no word of the log says so, but what stands in the registry.
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
        """Plain values, for ``--json``."""
        return asdict(self)


@translated_errors()
def record(name: str, *events: Event) -> None:
    """Append ``events`` to the log of the registered model ``name``, with user and time of now."""
    client = connect()
    for event in events:
        now = datetime.now(UTC)
        said = replace(event, user=_user())
        words = {key: value for key, value in asdict(said).items() if value not in (None, "", False)}
        client.set_registered_model_tag(
            name, f"{_LOG}{now.strftime(_STAMP)}-{secrets.token_hex(3)}", json.dumps(words)
        )


@translated_errors()
def read_history(name: str) -> tuple[Event, ...]:
    """The log of ``name``, oldest first, with what others did inferred and marked.

    A registration that was not logged has the time of its version. Nobody knows when others moved an alias or
    deleted a version: such a move stands before the word that contradicts it, or at the end.

    Raises:
        NotFoundError: If the store holds no such model.
        UsageError: If no model can have that name.
        RegistryError: If the store does not answer.
    """
    return history_of(read_entities(name))


def history_of(entities: Entities) -> tuple[Event, ...]:
    """The log as ``read_history`` gives it, of what was already read."""
    logged = logged_events(entities.model)
    known = {event.version for event in logged if event.event == REGISTERED}
    unlogged = [
        Event(
            REGISTERED,
            int(entity.version),
            model_id=(entity.source or "").removeprefix("models:/"),
            time=int(entity.creation_timestamp or 0),
            inferred=True,
        )
        for entity in entities.versions
        if int(entity.version) not in known
    ]
    events = sorted([*logged, *unlogged], key=lambda event: event.time or 0)
    aliases: dict[str, int] = {}
    told = list(_with_gaps_filled(events, aliases))
    return (*told, *_since(told, aliases, entities))


def logged_events(model: RegisteredModel) -> list[Event]:
    """The words of the log, oldest first; a tag that somebody altered says nothing."""
    read = (_event(key, value) for key, value in sorted(model.tags.items()) if key.startswith(_LOG))
    return [event for event in read if event is not None]


def _event(key: str, value: str) -> Event | None:
    try:
        stamp = datetime.strptime(key.removeprefix(_LOG).partition("-")[0], _STAMP).replace(tzinfo=UTC)
        words = {"version": None} | json.loads(value)
        return Event(**words | {"time": int(stamp.timestamp() * 1000)})
    except (ValueError, TypeError):
        return None


def _with_gaps_filled(events: Iterable[Event], aliases: dict[str, int]) -> Iterator[Event]:
    """``events``, each move after those it tells of that nobody logged; ``aliases`` follow them."""
    words: dict[str, Event] = {}
    for event in events:
        if event.event == REMOVED:
            for alias in [alias for alias, version in aliases.items() if version == event.version]:
                del aliases[alias]  # MLflow drops them with the version
        elif event.event == ALIAS:
            before = aliases.get(event.alias)
            if event.previous not in (None, before) and not _is_echo(event, words.get(event.alias)):
                yield Event(ALIAS, event.previous, event.alias, before, inferred=True)
            _follow(aliases, event)
            words[event.alias] = event
        yield event


def _since(told: list[Event], aliases: dict[str, int], entities: Entities) -> Iterator[Event]:
    """What happened after the log's last word: versions that are gone, aliases that point elsewhere."""
    held = {int(entity.version) for entity in entities.versions}
    removed = {event.version for event in told if event.event == REMOVED}
    for event in told:
        if event.event == REGISTERED and event.version not in held | removed:
            yield replace(event, event=REMOVED, user="", time=None, inferred=True)
    now = {alias: int(number) for alias, number in entities.model.aliases.items()}
    for alias in sorted({*aliases, *now}):
        if aliases.get(alias) != now.get(alias):
            yield Event(ALIAS, now.get(alias), alias, aliases.get(alias), inferred=True)


def _is_echo(event: Event, last: Event | None) -> bool:
    """Whether two processes that settled at a time logged one move."""
    if last is None or (event.version, event.previous) != (last.version, last.previous):
        return False
    return (event.time or 0) - (last.time or 0) <= _ECHO


def _follow(aliases: dict[str, int], event: Event) -> None:
    if event.version is None:
        aliases.pop(event.alias, None)
    else:
        aliases[event.alias] = event.version


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return ""
