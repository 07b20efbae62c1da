"""Stored soft targets that are gone, or that nobody can find: tags without files, runs without a tag."""

from collections.abc import Iterable, Iterator
from functools import partial

from mlflow.entities import Run, RunStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from lineage.registry.care.findings import Finding
from lineage.registry.family.family import TAG
from lineage.registry.store.connection import connect
from lineage.registry.store.entities import Entities, search_versions
from lineage.registry.store.progress import search_runs
from lineage.registry.store.runs import GenerationRun
from lineage.registry.store.soft_targets import (
    FOLDER,
    SOFT_TARGETS_KIND,
    SOFT_TARGETS_TAG,
    is_active,
    named_run,
)


def check_soft_targets(entities: Entities, kill_runs: bool = False) -> Iterator[Finding]:
    """Find soft targets that versions name but are missing, and their runs that are open or unnamed.

    Args:
        entities: The family.
        kill_runs: Whether runs that stand open are to be marked as KILLED.
    """
    for entity in entities.versions:
        for tag in _soft_targets_tags(entity):
            run_id = named_run(entity.tags[tag])
            if run_id is None or not _are_there(run_id):
                uri = f"models:/{entity.name}/{entity.version}"
                yield Finding(
                    "missing-soft-targets",
                    uri,
                    f"The tag {tag} of {uri} must name a run that holds its soft targets, but"
                    f" {'names none' if run_id is None else f'run {run_id} does not'}",
                    "the tag can be taken away; they are computed again when a student needs them",
                    partial(connect().delete_model_version_tag, entity.name, str(entity.version), tag),
                )
    named = _named_runs(entities.versions)
    for run in search_runs(entities.model.name, f"tags.`{TAG}kind` = '{SOFT_TARGETS_KIND}'"):
        run_id, status = str(run.info.run_id), RunStatus.to_string(RunStatus.from_string(run.info.status))
        who = f"Run {run_id} ({run.info.run_name})"
        if status in ("RUNNING", "FAILED"):
            yield Finding(
                "half-finished",
                f"run {run_id}",
                f"{who} must have given soft targets, but is {status}",
                "run the same 'lineage grow' again to continue from its state where that lies; if it is dead,"
                " --fix --kill-runs marks it as KILLED",
                partial(GenerationRun(run_id).stop, "KILLED") if kill_runs else None,
            )
        elif status == "FINISHED" and run_id not in named and run_id not in _named_above(run):
            yield Finding(
                "unused-soft-targets",
                f"run {run_id}",
                f"{who} must hold soft targets that a version names, but none does",
                "the run can be deleted; 'mlflow gc' then frees the disk",
                partial(connect().delete_run, run_id),
            )


def _soft_targets_tags(entity: ModelVersion) -> list[str]:
    return sorted(tag for tag in entity.tags if tag.startswith(SOFT_TARGETS_TAG))


def _are_there(run_id: str) -> bool:
    return is_active(run_id) and bool(connect().list_artifacts(run_id, FOLDER))


def _named_runs(entities: Iterable[ModelVersion]) -> set[str | None]:
    return {named_run(entity.tags[tag]) for entity in entities for tag in _soft_targets_tags(entity)}


def _named_above(run: Run) -> set[str | None]:
    """Runs that versions of the run above it name, under whatever name the family goes now."""
    return _named_runs(search_versions(f"run_id = '{run.data.tags.get(MLFLOW_PARENT_RUN_ID, '')}'"))
