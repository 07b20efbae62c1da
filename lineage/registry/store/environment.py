"""The files from which MLflow's environment managers make an environment for a logged model."""

from pathlib import Path

import mlflow
import numpy as np
import torch
import yaml

from lineage import __version__
from lineage.registry.store.mlflow_internals import PythonEnvironment, conda_environment

_WHERE_TO_GET_IT = "# lineage-distillation is installed from a clone of its source: pip install ."
_ITSELF = f"lineage-distillation=={__version__}"


def write_environment(folder: Path) -> str:
    """Write the files to a model's folder; return the name of the requirements file.

    ``lineage`` stands in the requirements alone, where MLflow names it to whoever opens the model without it.
    Environment managers do not fetch it from an index: install it as well, or serve with ``--env-manager
    local``.
    """
    packages = {
        "mlflow": mlflow.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__.split("+")[0],
    }
    requirements = [f"{name}=={version}" for name, version in packages.items()]
    text = "\n".join([*requirements, _WHERE_TO_GET_IT, _ITSELF]) + "\n"
    (folder / "requirements.txt").write_text(text)
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda_environment(additional_pip_deps=requirements)))
    environment = PythonEnvironment.current()
    environment.dependencies = requirements
    environment.to_yaml(str(folder / "python_env.yaml"))
    return "requirements.txt"
