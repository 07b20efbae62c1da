"""Checks for leftovers of interrupted work: open runs, unregistered logged models, unnamed soft targets."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from lineage.errors import NotFoundError
from lineage.registry.care.checks import Finding
from lineage.registry.care.remove import tombstones_of
from lineage.registry.family.family import Family, logged_model_id
from lineage.registry.family.history import logged_events
from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.progress import unregistered_runs
from lineage.registry.store.runs import FLAVOR_NAME, GenerationRun
from lineage.registry.store.search import (
    ModelWithVersions,
    search_logged_models,
    search_runs,
    search_versions,
)
from lineage.registry.store.soft_targets import (
    FOLDER,
    SOFT_TARGETS_KIND,
    SOFT_TARGETS_TAG,
    is_active,
    named_run,
)

_COMMANDS = {"ensemble": "lineage ensemble --register", "adopted": "lineage adopt"}


def check_runs(
    family: Family, has_local_state: Callable[[str], bool], kill_runs: bool = False
) -> Iterator[Finding]:
    """Find runs of the family's experiment that are RUNNING or FAILED and gave no version.

    Args:
        family: Family, as far as it can be read.
        has_local_state: Function that tells whether the generation of a key can be continued on this machine.
        kill_runs: Whether to offer to mark runs that cannot be continued as KILLED.
    """
    for run in unregistered_runs(family.name):
        key, status = run.data.tags[TAG + "key"], run.info.status
        version = family.with_key(key)
        described = f"Run {run.info.run_id} ({run.info.run_name})"
        generation_run = GenerationRun(str(run.info.run_id))
        if version is not None and version.run_id == run.info.run_id:
            yield Finding(
                "open-run",
                version.uri,
                f"{described} must be finished, since it gave {version.uri}, but is {status}",
                "the run can be closed",
                partial(generation_run.finish, version),
            )
        elif version is None or status != "FAILED":  # a failure that was repeated with success is past
            continued = has_local_state(key)
            command = _COMMANDS.get(run.data.tags.get(TAG + "kind", ""), "lineage grow")
            yield Finding(
                "half-finished",
                f"run {run.info.run_id}",
                f"{described} must have given a version, but is {status}, {_progress(run)}",
                f"run the same '{command}' again to continue from its state on this machine"
                if continued
                else f"run the same '{command}' again where its state lies; if it is dead,"
                " --fix --kill-runs marks it as KILLED",
                partial(generation_run.stop, "KILLED") if kill_runs and not continued else None,
            )


def check_logged_models(stored: ModelWithVersions) -> Iterator[Finding]:
    """Find models of the family's experiment that were never made a version, under any name."""
    known = {logged_model_id(entity) for entity in stored.versions}
    known |= {event.model_id for event in logged_events(stored.model)}
    known |= {tombstone.version.model_id for tombstone in tombstones_of(stored.model)}
    for model in search_logged_models(stored.model.name):
        if model.model_type != FLAVOR_NAME or model.model_id in known:
            continue
        if search_versions(f"source_path = 'models:/{model.model_id}'"):
            continue
        may_be_next = _is_running(model.source_run_id)
        yield Finding(
            "unregistered-model",
            model.model_id,
            f"The logged model {model.model_id} ({model.name}) must be a version, but nobody registered it",
            "its run is open and may register it: wait for the run, or mark it as dead with --kill-runs"
            if may_be_next
            else "it can be deleted; the same command logs its network again",
            None if may_be_next else partial(connect().delete_logged_model, model.model_id),
        )


def _is_running(run_id: str | None) -> bool:
    """Tell whether a run is there and open."""
    with suppress(NotFoundError), translated_errors():
        return run_id is not None and connect().get_run(run_id).info.status == "RUNNING"
    return False


def check_soft_targets(stored: ModelWithVersions, kill_runs: bool = False) -> Iterator[Finding]:
    """Find soft targets that versions name but are missing, and their runs that are open or unnamed.

    Args:
        stored: Registered model with its versions.
        kill_runs: Whether to offer to mark open runs as KILLED.
    """
    for entity in stored.versions:
        for tag in _soft_targets_tags(entity):
            run_id = named_run(entity.tags[tag])
            if run_id is None or not _has_files(run_id):
                uri = f"models:/{entity.name}/{entity.version}"
                yield Finding(
                    "missing-soft-targets",
                    uri,
                    f"The tag {tag} of {uri} must name a run that holds its soft targets, but"
                    f" {'names none' if run_id is None else f'run {run_id} does not'}",
                    "the tag can be taken away; they are computed again when a student needs them",
                    partial(connect().delete_model_version_tag, entity.name, str(entity.version), tag),
                )
    named = _named_runs(stored.versions)
    for run in search_runs(stored.model.name, f"tags.`{TAG}kind` = '{SOFT_TARGETS_KIND}'"):
        run_id, status = str(run.info.run_id), run.info.status
        described = f"Run {run_id} ({run.info.run_name})"
        if status in ("RUNNING", "FAILED"):
            yield Finding(
                "half-finished",
                f"run {run_id}",
                f"{described} must have given soft targets, but is {status}",
                "run the same 'lineage grow' again to continue from its state where that lies; if it is dead,"
                " --fix --kill-runs marks it as KILLED",
                partial(GenerationRun(run_id).stop, "KILLED") if kill_runs else None,
            )
        elif status == "FINISHED" and run_id not in named and run_id not in _named_by_teacher(run):
            yield Finding(
                "unused-soft-targets",
                f"run {run_id}",
                f"{described} must hold soft targets that a version names, but none does",
                "the run can be deleted; 'mlflow gc' then frees the disk",
                partial(connect().delete_run, run_id),
            )


def _progress(run: Run) -> str:
    tags = run.data.tags
    epochs = tags.get(TAG + "epochs")
    return f"at epoch {tags.get(TAG + 'epoch', '0')}" + (f" of {epochs}" if epochs else "")


def _soft_targets_tags(entity: ModelVersion) -> list[str]:
    return sorted(tag for tag in entity.tags if tag.startswith(SOFT_TARGETS_TAG))


def _has_files(run_id: str) -> bool:
    return is_active(run_id) and bool(connect().list_artifacts(run_id, FOLDER))


def _named_runs(entities: Iterable[ModelVersion]) -> set[str | None]:
    return {named_run(entity.tags[tag]) for entity in entities for tag in _soft_targets_tags(entity)}


def _named_by_teacher(run: Run) -> set[str | None]:
    """Return the runs that versions of the parent run name, also where the family was renamed."""
    return _named_runs(search_versions(f"run_id = '{run.data.tags.get(MLFLOW_PARENT_RUN_ID, '')}'"))
