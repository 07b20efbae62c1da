"""MLflow functions and classes outside its documented API, which this package cannot do without.

They may change with any release, so pyproject.toml bounds MLflow's version, and a test names each of them.

``resolve_tags`` gives user, source and the tags of our run-context plugin. ``mlflow.start_run`` adds them,
but makes the run the process's active one; ``MlflowClient.create_run`` does not add them.

``conda_environment`` and ``PythonEnvironment`` give the contents of ``conda.yaml`` and ``python_env.yaml``,
which MLflow's own flavors write with them; a flavor of one's own must write the same files.
"""

from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.environment import _mlflow_conda_env as conda_environment
from mlflow.utils.environment import _PythonEnv as PythonEnvironment

__all__ = ["PythonEnvironment", "conda_environment", "resolve_tags"]
