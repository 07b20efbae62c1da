"""Data for the page of families, read from the server's registry; documents of families are cached."""

import gzip
import json
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from threading import Condition
from typing import Any

from cachetools import LRUCache, cached
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from lineage.display.image_data import Fetch, image_document
from lineage.display.page_data import PageContext, family_document, read_page_context
from lineage.errors import NotFoundError, UsageError
from lineage.formats import json_digest
from lineage.registry.care.remove import read_tombstones
from lineage.registry.family.family import Version, from_model_version
from lineage.registry.family.lookup import read_family, students_elsewhere
from lineage.registry.family.overview import overview_of
from lineage.registry.family.tags import AUDITED_TAG
from lineage.registry.store.connection import find_experiment, translated_errors
from lineage.registry.store.progress import GrowingRun, read_growing, read_settings
from lineage.registry.store.reports import find_report
from lineage.registry.store.search import find_model, newest_version, search_families
from lineage.registry.store.transfers import newest_transfer
from lineage_mlflow.images import MOST_PICTURES, PictureReader
from lineage_mlflow.mlflow_private import get_request_workspace, read_logged_model_file

_MAX_DOCUMENTS = 32  # in the cache
_MAX_DETAILED = 200  # families in the list whose best version is looked up
_MOST_BYTES = 2**26  # of a file that is read for a page

MayRead = Callable[[str], bool]


class FamilyReader:
    """Reads families for the page. Documents are cached by the state of the registry that they show.

    Requests come on many threads; of several that miss the same document, one reads it and the others wait.
    """

    def __init__(self) -> None:
        cache: LRUCache[tuple[object, ...], bytes] = LRUCache(_MAX_DOCUMENTS)
        self._pictures = PictureReader()
        self._packed_document = cached(cache, condition=Condition())(_read_packed_document)

    @translated_errors()
    def overview(self, may_read_model: MayRead, may_read_runs: MayRead) -> dict[str, Any]:
        """Return all families that the user may read, last changed first."""
        readable = [model for model in search_families() if may_read_model(model.name)]
        rows = [_row(model, may_read_runs, detailed=i < _MAX_DETAILED) for i, model in enumerate(readable)]
        return {"families": rows}

    @translated_errors()
    def document(self, name: str, may_read_model: MayRead, may_read_runs: MayRead) -> bytes:
        """Return the whole ``family`` and the ``token`` of its state, as JSON packed by gzip.

        It has those students under other names that the user may read.

        Raises:
            NotFoundError: If there is no such family.
        """
        experiment = _readable_experiment(name, may_read_runs)
        token = _state_token(_require_model(name), experiment, _runs_in_training(name, experiment))
        elsewhere = tuple(found for found in students_elsewhere(name) if may_read_model(found.name))
        packed: bytes = self._packed_document(
            get_request_workspace() or "", name, experiment, token, elsewhere
        )
        return packed

    @translated_errors()
    def progress(self, name: str, may_read_runs: MayRead) -> dict[str, Any]:
        """Return the generations in training and the token of the family's state.

        A client that holds a document with this token needs no other.
        """
        experiment = _readable_experiment(name, may_read_runs)
        runs = _runs_in_training(name, experiment)
        token = _state_token(_require_model(name), experiment, runs)
        return {"token": token, "growing": [run.to_json() for run in runs]}

    @translated_errors()
    def settings(self, name: str, version: str, may_read_runs: MayRead) -> dict[str, Any]:
        """Return the settings that a version was trained with; none if the user may not read its run."""
        found = read_settings(_read_entity(name, version).run_id or "")
        readable = bool(found.experiment) and may_read_runs(found.experiment)
        return {"settings": found.values if readable else {}}

    @translated_errors()
    def images(self, name: str, version: str, may_read_runs: MayRead) -> bytes:
        """Return what a version and its teacher predicted of test images, as JSON packed by gzip.

        Raises:
            NotFoundError: If there is no such version.
        """
        return _packed(image_document(_read_version(name, version), _file_reader(may_read_runs)))

    @translated_errors()
    def pictures(self, name: str, version: str, rows: str, may_read_runs: MayRead) -> dict[str, Any]:
        """Return pictures of test images of a version, where this machine has them.

        Args:
            name: Name of the registered model.
            version: Number of the version.
            rows: Rows of the test part, such as ``3,17``.
            may_read_runs: Whether the user may read the runs of an experiment.

        Raises:
            UsageError: If ``rows`` are not rows, or too many.
            NotFoundError: If there is no such version.
        """
        numbers = rows.split(",")
        if len(numbers) > MOST_PICTURES or not all(re.fullmatch("[0-9]{1,8}", number) for number in numbers):
            raise UsageError(f"The rows must be at most {MOST_PICTURES} numbers, as in '3,17'.")
        found = _read_version(name, version)
        return self._pictures.pictures(found, [int(row) for row in numbers], _file_reader(may_read_runs))


def _read_entity(name: str, version: str) -> ModelVersion:
    if not version.isdecimal():
        raise UsageError(f"A version must be a number, but got '{version}'.")
    try:
        with translated_errors():
            return MlflowClient().get_model_version(name, version)
    except NotFoundError:
        raise NotFoundError(f"The family '{name}' has no version {version}.") from None


def _read_version(name: str, version: str) -> Version:
    found = from_model_version(_read_entity(name, version))
    if found is None:
        raise NotFoundError(f"Version {version} of '{name}' is none that lineage registered.")
    return found


def _file_reader(may_read_runs: MayRead) -> Fetch:
    """Return a function that reads files of those logged models that the user may read.

    Tags say which models to read, and whoever writes to a family may alter them: each model is asked for its
    experiment.
    """

    def fetch(model_id: str, names: Collection[str]) -> dict[str, bytes]:
        try:
            with translated_errors():
                experiment = MlflowClient().get_logged_model(model_id).experiment_id
        except NotFoundError:
            return {}
        if not may_read_runs(experiment):
            raise NotFoundError(
                f"The files of {model_id} must be in an experiment that you may read, but are in another; ask"
                " its owner for permission."
            )
        found = {name: read_logged_model_file(model_id, name, _MOST_BYTES) for name in names}
        return {name: content for name, content in found.items() if content is not None}

    return fetch


def _readable_experiment(name: str, may_read_runs: MayRead) -> str:
    """Return the id of the experiment with the family's runs; "" if there is none that the user may read."""
    experiment = find_experiment(name)
    return experiment if experiment and may_read_runs(experiment) else ""


def _require_model(name: str) -> RegisteredModel:
    model = find_model(name)
    if model is None:
        raise NotFoundError(f"This server holds no family '{name}'.")
    return model


def _runs_in_training(name: str, experiment: str) -> tuple[GrowingRun, ...]:
    return read_growing(name) if experiment else ()


def _state_token(model: RegisteredModel, experiment: str, growing: tuple[GrowingRun, ...]) -> str:
    """Return a digest of everything that a document shows, except the progress of runs."""
    newest = newest_version(model.name)
    shown = [
        model.last_updated_timestamp,
        sorted(model.aliases.items()),
        model.tags.get(AUDITED_TAG, ""),
        None if newest is None else [newest.version, newest.last_updated_timestamp],
        [run.run_id for run in growing],
        newest_transfer(experiment) if experiment else "",
        find_report(model.name) if experiment else "",
    ]
    return json_digest(shown)


def _read_packed_document(
    workspace: str, name: str, experiment: str, token: str, elsewhere: tuple[Version, ...]
) -> bytes:
    """Read a family in the workspace of this request; all arguments are part of the cache's key."""
    del workspace
    context = read_page_context(name) if experiment else PageContext(removed=read_tombstones(name))
    document = family_document(read_family(name), replace(context, elsewhere=elsewhere))
    return _packed({"family": document, "token": token})


def _packed(document: dict[str, Any]) -> bytes:
    return gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 4)


def _row(model: RegisteredModel, may_read_runs: MayRead, detailed: bool) -> dict[str, Any]:
    """Return one row of the list of families."""
    row: dict[str, Any] = {"name": model.name, "updated": model.last_updated_timestamp}
    if not detailed:
        return row
    overview = overview_of(model)
    experiment = _readable_experiment(model.name, may_read_runs)
    row["newest"] = overview.newest or None
    row["growing"] = len(_runs_in_training(model.name, experiment))
    best = overview.best
    if best is not None:
        row["best"] = {"version": best.version, "test_accuracy": best.metrics.get("test_accuracy")}
    return row
