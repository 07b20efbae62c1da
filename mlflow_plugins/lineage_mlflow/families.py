"""What the page of families is told: read from the store, placed, packed, kept until something changes."""

import gzip
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.utils.workspace_context import get_request_workspace

from lineage.errors import NotFoundError, UsageError
from lineage.formats import json_digest
from lineage.registry.care.remove import read_tombstones
from lineage.registry.family.aliases import BEST
from lineage.registry.family.family import from_model_version
from lineage.registry.family.lookup import read_family
from lineage.registry.store.connection import find_experiment, translated_errors
from lineage.registry.store.progress import GrowingRun, read_growing, read_settings
from lineage.registry.store.search import find_model, newest_version, search_families
from lineage.registry.store.transfers import newest_transfer
from lineage.report.page_data import PageContext, family_document, read_surroundings

_KEPT = 32
_DETAILED = 200  # families whose best version is looked up for the list

MayRead = Callable[[str], bool]


@dataclass(frozen=True)
class _Kept:
    """A family's document as it is sent.

    Attributes:
        token: Of the state of the registry that it was read from.
        packed: JSON, packed by gzip.
    """

    token: str
    packed: bytes


class Families:
    """Documents of families, each kept by newest version and time of change."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()
        self._locks: dict[tuple[Any, ...], Lock] = {}

    @translated_errors()
    def overview(self, may_read_model: MayRead, may_read_runs: MayRead) -> dict[str, Any]:
        """All families that may be read, last changed first."""
        readable = [model for model in search_families() if may_read_model(model.name)]
        rows = [_row(model, may_read_runs, detailed=i < _DETAILED) for i, model in enumerate(readable)]
        return {"families": rows}

    @translated_errors()
    def family(self, name: str, may_read_runs: MayRead) -> dict[str, Any]:
        """The whole document, packed: ``family`` and the ``token`` of its state.

        Raises:
            NotFoundError: If there is no such family.
        """
        experiment = _readable_experiment(name, may_read_runs)
        place = (get_request_workspace(), name, experiment)
        model = _model(name)  # before there is a lock: names of nothing leave none behind
        with self._locks.setdefault(place, Lock()):
            token = _token(model, experiment, _growing(name, experiment))
            kept = self._kept.get(place)
            if kept is None or kept.token != token:
                kept = _read(name, experiment, token)
            self._kept[place] = kept
            self._kept.move_to_end(place)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return {"packed": kept.packed}

    @translated_errors()
    def growing(self, name: str, may_read_runs: MayRead) -> dict[str, Any]:
        """What is being trained now, and the token of the family's state: who has it is up to date."""
        experiment = _readable_experiment(name, may_read_runs)
        growing = _growing(name, experiment)
        token = _token(_model(name), experiment, growing)
        return {"token": token, "growing": [one.to_json() for one in growing]}

    @translated_errors()
    def settings(self, name: str, version: str, may_read_runs: MayRead) -> dict[str, Any]:
        """What a version was grown with; nothing where its run may not be read."""
        if not version.isdecimal():
            raise UsageError(f"A version must be a number, but got '{version}'.")
        try:
            with translated_errors():
                entity = MlflowClient().get_model_version(name, version)
        except NotFoundError:
            raise NotFoundError(f"The family '{name}' has no version {version}.") from None
        found = read_settings(entity.run_id or "")
        readable = bool(found.experiment) and may_read_runs(found.experiment)
        return {"settings": found.values if readable else {}}


def _readable_experiment(name: str, may_read_runs: MayRead) -> str:
    """The experiment of the family's runs, where it exists and may be read."""
    experiment = find_experiment(name)
    return experiment if experiment and may_read_runs(experiment) else ""


def _model(name: str) -> RegisteredModel:
    model = find_model(name)
    if model is None:
        raise NotFoundError(f"This server holds no family '{name}'.")
    return model


def _growing(name: str, experiment: str) -> tuple[GrowingRun, ...]:
    return read_growing(name) if experiment else ()


def _token(model: RegisteredModel, experiment: str, growing: tuple[GrowingRun, ...]) -> str:
    """Of all that a document shows, but for how far runs are."""
    newest = newest_version(model.name)
    shown = [
        model.last_updated_timestamp,
        sorted(model.aliases.items()),
        None if newest is None else [newest.version, newest.last_updated_timestamp],
        [one.run_id for one in growing],
        newest_transfer(experiment) if experiment else "",
    ]
    return json_digest(shown)


def _read(name: str, experiment: str, token: str) -> _Kept:
    around = read_surroundings(name) if experiment else PageContext(removed=read_tombstones(name))
    document = family_document(read_family(name), around)
    body = json.dumps({"family": document, "token": token}, ensure_ascii=False, separators=(",", ":"))
    return _Kept(token, gzip.compress(body.encode(), 4))


def _row(model: RegisteredModel, may_read_runs: MayRead, detailed: bool) -> dict[str, Any]:
    """What the list says of one family."""
    row: dict[str, Any] = {"name": model.name, "updated": model.last_updated_timestamp}
    if not detailed:
        return row
    newest = newest_version(model.name)
    experiment = _readable_experiment(model.name, may_read_runs)
    row["newest"] = None if newest is None else int(newest.version)
    row["growing"] = len(_growing(model.name, experiment))
    if BEST in model.aliases:
        best = from_model_version(MlflowClient().get_model_version(model.name, model.aliases[BEST]))
        if best is not None:
            row["best"] = {"version": best.version, "test_accuracy": best.metrics.get("test_accuracy")}
    return row
