"""Stored signals that are gone, or that nobody can find: tags without files, runs without a tag."""

from collections.abc import Iterable, Iterator
from functools import partial

from mlflow.entities import Run, RunStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from lineage.registry.ancestry import TAG
from lineage.registry.entities import Entities, search_versions
from lineage.registry.finding import Finding
from lineage.registry.progress import search_runs
from lineage.registry.runs import GenerationRun
from lineage.registry.signals import FOLDER, SIGNALS_KIND, SIGNALS_TAG, is_active, named_run
from lineage.registry.store import connect


def check_signals(entities: Entities, kill_runs: bool = False) -> Iterator[Finding]:
    """What versions name as their signals and is not there; runs of signals that stand open or unnamed.

    Args:
        entities: The family.
        kill_runs: Whether runs that stand open are to be marked as KILLED.
    """
    for entity in entities.versions:
        for tag in _signals_tags(entity):
            run_id = named_run(entity.tags[tag])
            if run_id is None or not _are_there(run_id):
                uri = f"models:/{entity.name}/{entity.version}"
                yield Finding(
                    "missing-signals",
                    uri,
                    f"The tag {tag} of {uri} must name a run that holds its signals, but"
                    f" {'names none' if run_id is None else f'run {run_id} does not'}",
                    "the tag can be taken away; they are computed again when a student needs them",
                    partial(connect().delete_model_version_tag, entity.name, str(entity.version), tag),
                )
    named = _named_runs(entities.versions)
    for run in search_runs(entities.model.name, f"tags.`{TAG}kind` = '{SIGNALS_KIND}'"):
        run_id, status = str(run.info.run_id), RunStatus.to_string(RunStatus.from_string(run.info.status))
        who = f"Run {run_id} ({run.info.run_name})"
        if status in ("RUNNING", "FAILED"):
            yield Finding(
                "half-finished",
                f"run {run_id}",
                f"{who} must have given signals, but is {status}",
                "run the same 'lineage grow' again to continue from its state where that lies; if it is dead,"
                " --fix --kill-runs marks it as KILLED",
                partial(GenerationRun(run_id).stop, "KILLED") if kill_runs else None,
            )
        elif status == "FINISHED" and run_id not in named and run_id not in _named_above(run):
            yield Finding(
                "unused-signals",
                f"run {run_id}",
                f"{who} must hold signals that a version names, but none does",
                "the run can be deleted; 'mlflow gc' then frees the disk",
                partial(connect().delete_run, run_id),
            )


def _signals_tags(entity: ModelVersion) -> list[str]:
    return sorted(tag for tag in entity.tags if tag.startswith(SIGNALS_TAG))


def _are_there(run_id: str) -> bool:
    return is_active(run_id) and bool(connect().list_artifacts(run_id, FOLDER))


def _named_runs(entities: Iterable[ModelVersion]) -> set[str | None]:
    return {named_run(entity.tags[tag]) for entity in entities for tag in _signals_tags(entity)}


def _named_above(run: Run) -> set[str | None]:
    """Runs that versions of the run above it name, under whatever name the family goes now."""
    return _named_runs(search_versions(f"run_id = '{run.data.tags.get(MLFLOW_PARENT_RUN_ID, '')}'"))
