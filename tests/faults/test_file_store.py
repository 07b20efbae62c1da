"""A working directory with an old file store of MLflow says how to go on."""

from pathlib import Path

import mlflow
import pytest

from lineage.errors import RegistryError
from lineage.registry.store.connection import check_store


def test_old_file_store_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\nname: Default\n")
    assert mlflow.get_tracking_uri().endswith("mlruns")
    with pytest.raises(RegistryError, match=r"MLFLOW_TRACKING_URI=sqlite:///mlflow\.db"):
        check_store()
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]
