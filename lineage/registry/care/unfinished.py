"""Generations that began and gave no version: runs that stand open, logged models that nobody registered."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mlflow.entities import Run, RunStatus

from lineage.registry.care.findings import Finding
from lineage.registry.care.history import logged_events
from lineage.registry.care.remove import tombstones_of
from lineage.registry.family.family import TAG, Family
from lineage.registry.flavor import FLAVOR_NAME
from lineage.registry.store.connection import connect
from lineage.registry.store.entities import Entities, search_versions
from lineage.registry.store.progress import unregistered_runs
from lineage.registry.store.runs import GenerationRun

_PAGE = 1000
_COMMANDS = {"ensemble": "lineage ensemble --register", "adopted": "lineage adopt"}


def check_runs(
    family: Family, has_local_state: Callable[[str], bool], kill_runs: bool = False
) -> Iterator[Finding]:
    """Runs of the family's experiment that are RUNNING or FAILED and gave no version.

    Args:
        family: As far as it can be read.
        has_local_state: Whether a generation of some key can be continued on this machine.
        kill_runs: Whether those that cannot are to be marked as KILLED.
    """
    for run in unregistered_runs(family.name):
        key, status = run.data.tags[TAG + "key"], RunStatus.to_string(RunStatus.from_string(run.info.status))
        version = family.with_key(key)
        who = f"Run {run.info.run_id} ({run.info.run_name})"
        generation_run = GenerationRun(str(run.info.run_id))
        if version is not None and version.run_id == run.info.run_id:
            yield Finding(
                "open-run",
                version.uri,
                f"{who} must be finished, since it gave {version.uri}, but is {status}",
                "the run can be closed",
                partial(generation_run.finish, version),
            )
        elif version is None or status != "FAILED":  # a failure that was grown again is past
            continued = has_local_state(key)
            command = _COMMANDS.get(run.data.tags.get(TAG + "kind", ""), "lineage grow")
            yield Finding(
                "half-finished",
                f"run {run.info.run_id}",
                f"{who} must have given a version, but is {status}, {_progress(run)}",
                f"run the same '{command}' again to continue from its state on this machine"
                if continued
                else f"run the same '{command}' again where its state lies; if it is dead,"
                " --fix --kill-runs marks it as KILLED",
                partial(generation_run.stop, "KILLED") if kill_runs and not continued else None,
            )


def check_logged_models(entities: Entities) -> Iterator[Finding]:
    """Models of the family's experiment that no version was ever made of, under any name."""
    known = {str(entity.source).removeprefix("models:/") for entity in entities.versions}
    known |= {event.model_id for event in logged_events(entities.model)}
    known |= {stone.version.model_id for stone in tombstones_of(entities.model)}
    for model in _logged_models(entities.model.name):
        if model.model_id in known or search_versions(f"source_path = 'models:/{model.model_id}'"):
            continue
        yield Finding(
            "unregistered-model",
            model.model_id,
            f"The logged model {model.model_id} ({model.name}) must be a version, but nobody registered it",
            "run the same 'lineage grow' again, which registers the generation, then delete this model in"
            " MLflow",
        )


def _logged_models(name: str) -> Iterator[Any]:
    client = connect()
    experiment = client.get_experiment_by_name(name)
    token: str | None = None
    while experiment is not None:
        page = client.search_logged_models([experiment.experiment_id], max_results=_PAGE, page_token=token)
        yield from (model for model in page if model.model_type == FLAVOR_NAME)
        token = page.token
        if not token:
            return


def _progress(run: Run) -> str:
    tags = run.data.tags
    epochs = tags.get(TAG + "epochs")
    return f"at epoch {tags.get(TAG + 'epoch', '0')}" + (f" of {epochs}" if epochs else "")
