"""MLflow functions and classes outside its documented API, which this package cannot do without.

They may change with any release, so pyproject.toml bounds MLflow's version, and a test names each of them.

``resolve_tags`` gives user, source and the tags of our run-context plugin. ``mlflow.start_run`` adds them,
but makes the run the process's active one; ``MlflowClient.create_run`` does not add them.

``conda_environment`` and ``PythonEnvironment`` give the contents of ``conda.yaml`` and ``python_env.yaml``,
which MLflow's own flavors write with them; a flavor of one's own must write the same files.

``create_tables``, ``latest_schema`` and ``knows_schema`` are of the module that creates a store's tables; it
is imported when they are called, since it imports all that MLflow has for databases.
"""

from typing import TYPE_CHECKING

from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.environment import _mlflow_conda_env as conda_environment
from mlflow.utils.environment import _PythonEnv as PythonEnvironment

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = [
    "PythonEnvironment",
    "conda_environment",
    "create_tables",
    "knows_schema",
    "latest_schema",
    "resolve_tags",
]


def create_tables(engine: "Engine") -> None:
    """Create all tables of a store in an empty database."""
    from mlflow.store.db.utils import _initialize_tables

    _initialize_tables(engine)


def latest_schema() -> str:
    """Return the revision of the schema that this MLflow works with."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def knows_schema(revision: str) -> bool:
    """Tell whether this MLflow has the migration that leads to a revision of the schema."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        return ScriptDirectory.from_config(_get_alembic_config("")).get_revision(revision) is not None
    except CommandError:
        return False
