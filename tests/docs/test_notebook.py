"""The notebook of the documentation runs, shows progress and figures, and nothing that nobody asked for."""

import os
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: make setup.")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: make setup.")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # those of Jupyter's own libraries
def test_notebook_runs_with_progress_figures_and_no_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat

    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "LINEAGE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    notebook = nbformat.read(DOCS / "notebook.ipynb", 4)
    options: Any = {"resources": {"metadata": {"path": str(tmp_path)}}, "timeout": 120}
    nbclient.NotebookClient(notebook, **options).execute(env=os.environ | {"TMPDIR": str(tmp_path)})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert "generation 1: epoch 3/3" in text
    assert "Downloading" not in text
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    results = [output.data for output in outputs if output.output_type in ("execute_result", "display_data")]
    assert sum("image/png" in data for data in results) == 2
    assert any("<Lineage digits, seed 1" in data["text/plain"] for data in results)
