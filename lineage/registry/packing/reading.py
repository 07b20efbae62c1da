"""Reading of a whole family from the store: versions, runs, logged models, and their files."""

from pathlib import Path

import mlflow
import yaml
from mlflow.entities import LifecycleStage, Run

from lineage.errors import NotFoundError
from lineage.registry.family.family import logged_model_id
from lineage.registry.family.tags import TAG
from lineage.registry.packing.contents import (
    FORMAT,
    WITHOUT_WEIGHTS_TAG,
    Contents,
    PackedDataset,
    PackedFamily,
    PackedMetric,
    PackedModel,
    PackedRun,
    PackedVersion,
)
from lineage.registry.store.connection import connect, translated_errors
from lineage.registry.store.search import (
    ModelWithVersions,
    find_model,
    read_model_with_versions,
    search_runs,
)

_DOWNLOAD_NOTE = "registered_model_meta"  # MLflow adds it to what it downloads

MeasuredOn = dict[tuple[str, str, int], tuple[str, str, str]]
"""Model id, and name and digest of the data set, by run id, metric and step."""


@translated_errors()
def read_contents(name: str, with_weights: bool) -> Contents:
    """Read everything that the store holds of a family, but its files.

    Runs that are open are left out, and so are versions that ``lineage`` did not make.

    Args:
        name: Name of the registered model.
        with_weights: Whether the weights will be packed as well.

    Raises:
        NotFoundError: If the store holds no such model.
    """
    stored = read_model_with_versions(name)
    family = _read_family(stored, with_weights)
    runs = {str(run.info.run_id): run for run in search_runs(name, "") if run.info.status != "RUNNING"}
    for version in family.versions:
        if version.run_id and version.run_id not in runs:
            run = _find_run(version.run_id)  # in another experiment, where the family was renamed
            runs |= {} if run is None else {version.run_id: run}
    models, measured = [], MeasuredOn()
    for model_id in dict.fromkeys(version.model_id for version in family.versions):
        logged = connect().get_logged_model(model_id)
        models.append(
            PackedModel(
                model_id,
                logged.name,
                logged.model_type or "",
                logged.source_run_id or "",
                dict(logged.params or {}),
                dict(logged.tags or {}),
            )
        )
        for metric in logged.metrics or ():
            place = (metric.run_id or "", metric.key, metric.step)
            measured[place] = (model_id, metric.dataset_name or "", metric.dataset_digest or "")
    return Contents(family, tuple(_read_run(run, measured) for run in runs.values()), tuple(models))


@translated_errors()
def fetch_model_files(model_id: str, folder: Path) -> None:
    """Download the files of a logged model to ``folder``."""
    mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=str(_made(folder)))
    (folder / _DOWNLOAD_NOTE).unlink(missing_ok=True)
    description = folder / "MLmodel"
    if description.is_file():  # an absolute path in the store that it comes from
        fields = yaml.safe_load(description.read_text(encoding="utf-8"))
        text = yaml.safe_dump(fields | {"artifact_path": f"models:/{model_id}"})
        description.write_text(text, encoding="utf-8")


@translated_errors()
def fetch_run_files(run_id: str, folder: Path) -> None:
    """Download the artifacts of a run to ``folder``; nothing if it has none."""
    if connect().list_artifacts(run_id):
        mlflow.artifacts.download_artifacts(run_id=run_id, dst_path=str(_made(folder)))


@translated_errors()
def lacks_weights(name: str) -> bool:
    """Tell whether versions of a family were unpacked from a file without weights."""
    model = find_model(name)
    return model is not None and WITHOUT_WEIGHTS_TAG in model.tags


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _read_family(stored: ModelWithVersions, with_weights: bool) -> PackedFamily:
    versions = [
        PackedVersion(
            int(entity.version),
            entity.run_id or "",
            logged_model_id(entity),
            entity.description or "",
            dict(entity.tags),
        )
        for entity in stored.versions
        if TAG + "schema" in entity.tags
    ]
    model = stored.model
    aliases = {alias: int(number) for alias, number in model.aliases.items()}
    return PackedFamily(
        FORMAT,
        model.name,
        model.description or "",
        dict(model.tags),
        aliases,
        with_weights,
        tuple(versions),
    )


def _find_run(run_id: str) -> Run | None:
    try:
        with translated_errors():
            run = connect().get_run(run_id)
    except NotFoundError:
        return None
    return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def _read_run(run: Run, measured: MeasuredOn) -> PackedRun:
    client, run_id = connect(), str(run.info.run_id)
    metrics = []
    for key in sorted(run.data.metrics):
        for point in client.get_metric_history(run_id, key):
            model_id, *dataset = measured.get((run_id, key, point.step), ("", "", ""))
            value = repr(float(point.value))
            metrics.append(
                PackedMetric(key, value, point.timestamp, point.step, model_id, (dataset[0], dataset[1]))
            )
    datasets = [
        PackedDataset(
            entry.dataset.name,
            entry.dataset.digest,
            entry.dataset.source_type,
            entry.dataset.source,
            {tag.key: tag.value for tag in entry.tags},
        )
        for entry in (run.inputs.dataset_inputs if run.inputs else ())
    ]
    outputs = run.outputs.model_outputs if run.outputs else ()
    return PackedRun(
        run_id,
        run.info.run_name or "",
        "FINISHED" if run.info.status == "RUNNING" else run.info.status,  # it gave a version
        int(run.info.start_time),
        int(run.info.end_time or run.info.start_time),
        dict(run.data.params),
        dict(run.data.tags),
        tuple(metrics),
        tuple(datasets),
        tuple(entry.model_id for entry in (run.inputs.model_inputs if run.inputs else ())),
        tuple((entry.model_id, entry.step) for entry in outputs),
    )
