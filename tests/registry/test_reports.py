"""Reports are artifacts of one run for each choice of families, which the tree's page links."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from lineage.display.page_data import family_document, read_page_context
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import read_family
from lineage.registry.store.reports import find_report, log_report


def test_report_is_kept_in_one_run_and_linked_from_the_tree(
    sqlite_registry: Any, add_version: Callable[..., Version], name: str, tmp_path: Path
) -> None:
    add_version()
    assert find_report(name) == ""
    file = tmp_path / "report.html"
    file.write_text("one")
    run_id = log_report(name, (name, "other"), [file])
    file.write_text("two")
    assert log_report(name, (name, "other"), [file]) == run_id
    alone = log_report(name, (name,), [file])
    assert alone != run_id
    kept = MlflowClient().download_artifacts(run_id, "report/report.html", str(tmp_path))
    assert Path(kept).read_text() == "two"
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"
    document = family_document(read_family(name), read_page_context(name))
    assert document["report"] == alone
    MlflowClient().delete_run(alone)
    assert find_report(name) == run_id
