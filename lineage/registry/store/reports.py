"""Reports of families in MLflow: artifacts of one run for each choice of families. Imports no torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from lineage.registry.family.tags import TAG
from lineage.registry.store.connection import connect, ensure_experiment, translated_errors
from lineage.registry.store.runs import open_run
from lineage.registry.store.search import search_runs

REPORT_TAG = TAG + "report"
REPORT_KIND = "report"
FOLDER = "report"


@translated_errors()
def log_report(name: str, families: Sequence[str], files: Iterable[Path]) -> str:
    """Log a report's files to the run of former reports of the same families, or to a new one.

    Args:
        name: Name of the family whose experiment holds the run.
        families: Names of all families of the report.
        files: Files of the report.

    Returns:
        Id of the run.
    """
    title = ", ".join(families)
    experiment = ensure_experiment(name)
    run_id = find_report(name, title)
    if not run_id:
        tags = {REPORT_TAG: title, TAG + "kind": REPORT_KIND}
        run_id = open_run(experiment, f"report of {title}", tags, {})
    client = MlflowClient()
    for file in files:
        client.log_artifact(run_id, str(file), FOLDER)
    note = f"Report of {title}: artifact `{FOLDER}/report.html`."
    client.log_batch(run_id, tags=[RunTag(MLFLOW_RUN_NOTE, note)])
    client.set_terminated(run_id, "FINISHED")
    return run_id


@translated_errors()
def find_report(name: str, title: str = "") -> str:
    """Return the id of the newest run with a report in the experiment of a family; "" if there is none.

    Args:
        name: Name of the family.
        title: Names of the families of the report; any by default.
    """
    connect()
    runs = search_runs(name, f"tags.`{TAG}kind` = '{REPORT_KIND}'")
    found = [
        run.info
        for run in runs
        if run.info.lifecycle_stage == LifecycleStage.ACTIVE
        and title in ("", run.data.tags.get(REPORT_TAG, ""))
    ]
    newest = max(found, key=lambda info: info.end_time or 0, default=None)
    return "" if newest is None else str(newest.run_id)
