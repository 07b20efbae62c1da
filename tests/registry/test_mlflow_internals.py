import ast
from importlib import import_module
from pathlib import Path

import pytest

import lineage.registry

ROOM = Path(lineage.registry.__file__).parent
USED = [
    ("mlflow.tracking.context.registry", "resolve_tags"),
    ("mlflow.utils.environment", "_mlflow_conda_env"),
    ("mlflow.utils.environment", "_PythonEnv"),
    ("mlflow.store.db.utils", "_initialize_tables"),
    ("mlflow.store.db.utils", "_get_latest_schema_revision"),
    ("mlflow.store.db.utils", "_get_alembic_config"),
]


@pytest.mark.parametrize(("module", "name"), USED)
def test_internal_of_mlflow_is_there(module: str, name: str) -> None:
    assert hasattr(import_module(module), name), (
        f"This release of MLflow has no {module}.{name}: find another way in"
        " lineage/registry/store/mlflow_internals.py, or keep the bound of mlflow in pyproject.toml below it."
    )


def test_internals_of_mlflow_are_imported_in_one_module_alone() -> None:
    found = {}
    for file in ROOM.rglob("*.py"):
        imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {
            (node.module or "", alias.name)
            for node in imports
            if (node.module or "").startswith("mlflow")
            for alias in node.names
            if alias.name.startswith("_") or (node.module or "").startswith("mlflow.tracking.")
        }
        if names:
            found[file.name] = names
    assert found == {"mlflow_internals.py": set(USED)}
