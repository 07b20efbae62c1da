import ast
import pkgutil
from pathlib import Path

import lineage_mlflow
import mlflow
import pytest
from lineage_mlflow.mlflow_private import PRIVATE_NAMES


@pytest.mark.filterwarnings("ignore")  # what MLflow's server imports warns
@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_private_name_is_in_this_release_of_mlflow(name: str) -> None:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        pytest.fail(
            f"MLflow {mlflow.__version__} has no {name}, which lineage_mlflow/mlflow_private.py uses"
            f" {PRIVATE_NAMES[name]}: find another way there, or bound MLflow's version in pyproject.toml."
        )


def test_no_other_module_of_the_plugins_uses_private_names() -> None:
    for file in Path(lineage_mlflow.__file__).parent.glob("*.py"):
        imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        private = {
            f"{node.module}:{alias.name}"
            for node in imports
            for alias in node.names
            if f"{node.module}:{alias.name}" in PRIVATE_NAMES
            or ((node.module or "").startswith("mlflow") and alias.name.startswith("_"))
        }
        if file.stem == "mlflow_private":
            assert private <= PRIVATE_NAMES.keys()
        else:
            assert private == set(), file.name
