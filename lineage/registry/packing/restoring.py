"""Writing of a packed family to the store: runs and logged models first, then its versions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)

from lineage.errors import IntegrityError, LineageError
from lineage.registry.family.cards import family_card
from lineage.registry.family.family import SCHEMA
from lineage.registry.family.history import REGISTERED, Event, record
from lineage.registry.family.register import settle
from lineage.registry.family.tags import TAG
from lineage.registry.packing.contents import (
    WITHOUT_WEIGHTS_TAG,
    Contents,
    PackedModel,
    PackedRun,
    PackedVersion,
)
from lineage.registry.packing.identities import Identities
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.files import FILES_TAG, files_digest

ORIGIN_TAG = TAG + "unpacked_from"  # of a run: its id in the store that it was first packed in

_MOST_METRICS = 1000  # in one call
_MOST_OTHERS = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Addition:
    """The part of a packed family that the store does not hold yet.

    Attributes:
        contents: Everything packed.
        name: Name of the registered model.
        is_new: Whether the store has no such registered model.
        runs: Runs to add.
        models: Logged models to add, those of members before those of their ensembles.
        versions: Versions to add.
        numbers: Former version numbers to allocate, of versions and of what the log and the tombstones name.
        first_number: Number that MLflow will give to the first of them.
        identities: New ids of what the store holds already.
    """

    contents: Contents
    name: str
    is_new: bool
    runs: tuple[PackedRun, ...]
    models: tuple[PackedModel, ...]
    versions: tuple[PackedVersion, ...]
    numbers: tuple[int, ...]
    first_number: int
    identities: Identities


@dataclass
class _Undo:
    """Steps that undo an interrupted addition, the last write first."""

    steps: list[Callable[[], object]] = field(default_factory=list)

    def run(self) -> None:
        for step in reversed(self.steps):
            with suppress(LineageError), translated_errors():
                step()


@translated_errors()
def add(
    addition: Addition, run_files: Callable[[str], Path | None], model_files: Callable[[str], Path | None]
) -> None:
    """Add to the store what it does not hold; take everything back if that fails.

    Args:
        addition: Part to add; its identities are completed.
        run_files: Function that returns the folder with a former run's artifacts, with rewritten texts; None
            if there are none. It is called once all new ids are known.
        model_files: The same for a logged model.
    """
    undo = _Undo()
    try:
        _Adding(addition, undo).add_all(run_files, model_files)
    except BaseException:
        undo.run()
        raise


class _Adding:
    def __init__(self, addition: Addition, undo: _Undo) -> None:
        self.addition = addition
        self.identities = addition.identities
        self.undo = undo
        self.client: MlflowClient = connect()

    def add_all(
        self, run_files: Callable[[str], Path | None], model_files: Callable[[str], Path | None]
    ) -> None:
        addition, client = self.addition, self.client
        experiment = ensure_experiment(addition.name)
        for place, number in enumerate(addition.numbers):
            new_id = f"{addition.name}/{addition.first_number + place}"
            self.identities.versions[f"{addition.name}/{number}"] = new_id
        for run in addition.runs:
            created = client.create_run(experiment, run.start, run_name=run.name)
            run_id = self.identities.ids[run.run_id] = str(created.info.run_id)
            self.undo.steps.append(partial(client.delete_run, run_id))
        for model in addition.models:
            self._create_model(experiment, model)
        for model in addition.models:
            self._fill_model(model, model_files)
        for run in addition.runs:
            self._fill_run(run, run_files)
        if addition.numbers:
            self._register()

    def _create_model(self, experiment: str, model: PackedModel) -> None:
        created = self.client.create_logged_model(
            experiment,
            model.name,
            self.identities.ids.get(model.run_id),
            {key: value for key, value in model.tags.items() if not key.startswith("mlflow.")},
            model.params,
            model.model_type or None,
        )
        model_id = self.identities.ids[model.model_id] = str(created.model_id)
        self.undo.steps.append(partial(self.client.delete_logged_model, model_id))

    def _fill_model(self, model: PackedModel, files: Callable[[str], Path | None]) -> None:
        model_id, folder = self.identities.ids[model.model_id], files(model.model_id)
        if folder is not None:
            self._note_digest(model, model_id, folder)
            self.client.log_model_artifacts(model_id, str(folder))
        self.client.finalize_logged_model(model_id, "READY")

    def _note_digest(self, model: PackedModel, model_id: str, folder: Path) -> None:
        """Give a model the digest of its rewritten files, which its versions and ensembles are pinned to."""
        former = model.tags.get(FILES_TAG)
        if former and self.addition.contents.family.with_weights:
            new = files_digest(folder)
            if new != former:
                self.identities.digests[former] = new
                self.client.set_logged_model_tags(model_id, {FILES_TAG: new})

    def _fill_run(self, run: PackedRun, files: Callable[[str], Path | None]) -> None:
        client, ids = self.client, self.identities.ids
        run_id = ids[run.run_id]
        # Outputs first: a metric that names a model makes it the run's input unless it is its output
        outputs = [LoggedModelOutput(ids[model], step) for model, step in run.outputs if model in ids]
        if outputs:
            client.log_outputs(run_id, outputs)
        datasets = [
            DatasetInput(
                Dataset(data.name, data.digest, data.source_type, data.source),
                [InputTag(key, value) for key, value in data.tags.items()],
            )
            for data in run.datasets
        ]
        inputs = [LoggedModelInput(ids[model]) for model in run.inputs if model in ids]
        if datasets or inputs:
            client.log_inputs(run_id, datasets, inputs)
        for params in _batches((Param(key, value) for key, value in run.params.items()), _MOST_OTHERS):
            client.log_batch(run_id, params=params)
        for metrics in _batches(self._metrics(run, run_id), _MOST_METRICS):
            client.log_batch(run_id, metrics)
        tags = {ORIGIN_TAG: run.run_id} | run.tags
        rewritten = {
            key: value if key == ORIGIN_TAG else self.identities.rewrite(value) for key, value in tags.items()
        }
        for some in _batches((RunTag(key, value) for key, value in rewritten.items()), _MOST_OTHERS):
            client.log_batch(run_id, tags=some)
        folder = files(run.run_id)
        if folder is not None:
            client.log_artifacts(run_id, str(folder))
        client.set_terminated(run_id, run.status, run.end)

    def _metrics(self, run: PackedRun, run_id: str) -> Iterator[Metric]:
        for metric in run.metrics:
            name, digest = metric.dataset
            model_id = self.identities.ids.get(metric.model_id)
            place = {"model_id": model_id, "run_id": run_id} if model_id else {}
            if model_id and name:
                place |= {"dataset_name": name, "dataset_digest": digest}
            yield Metric(metric.key, float(metric.value), metric.timestamp, metric.step, **place)

    def _register(self) -> None:
        addition, client, name = self.addition, self.client, self.addition.name
        family = addition.contents.family
        if addition.is_new:
            tags = {TAG + "schema": str(SCHEMA)}
            client.create_registered_model(name, tags, family.description or family_card(name))
            self.undo.steps.append(partial(client.delete_registered_model, name))
        placeholders = []
        for place, number in enumerate(addition.numbers):
            version = next((version for version in addition.versions if version.number == number), None)
            created = self._create_version(version)
            if int(created) != addition.first_number + place:
                client.delete_model_version(name, created)
                raise IntegrityError(
                    f"Nobody else may register versions of '{name}' while it is unpacked, but somebody did;"
                    " nothing was kept: unpack it again, with --merge."
                )
            if not addition.is_new:
                self.undo.steps.append(partial(client.delete_model_version, name, created))
            if version is None:
                placeholders.append(created)
        for created in placeholders:  # only now: MLflow would give the last number again
            client.delete_model_version(name, created)
        self._set_model_tags()
        settle(name)

    def _create_version(self, version: PackedVersion | None) -> str:
        """Create a version, or one that only takes the number of a removed one; return its number."""
        if version is None:
            model_id = self.identities.ids[self.addition.models[0].model_id]
            source = f"models:/{model_id}"
            return str(
                self.client.create_model_version(self.addition.name, source, model_id=model_id).version
            )
        model_id = self.identities.ids[version.model_id]
        created = self.client.create_model_version(
            self.addition.name,
            f"models:/{model_id}",
            self.identities.ids.get(version.run_id),
            self.identities.rewrite_tags(version.tags),
            description=self.identities.rewrite(version.description),
            model_id=model_id,
        )
        return str(created.version)

    def _set_model_tags(self) -> None:
        """Set tombstones; of a new family also the log and the aliases, of which another has its own."""
        name, client, family = self.addition.name, self.client, self.addition.contents.family
        tags = self.identities.rewrite_tombstones(name, family.tags)
        if self.addition.is_new:
            tags |= self.identities.rewrite_log(name, family.tags)
        if not family.with_weights:
            tags[WITHOUT_WEIGHTS_TAG] = "true"
        for key, value in tags.items():
            client.set_registered_model_tag(name, key, value)
        if not self.addition.is_new:
            for version in self.addition.versions:
                number = self.identities.number(name, version.number)
                record(name, Event(REGISTERED, number, model_id=self.identities.ids[version.model_id]))
            return
        for alias, former in family.aliases.items():
            number = self.identities.number(name, former)
            if number is not None:
                client.set_registered_model_alias(name, alias, str(number))


def _batches(values: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch
