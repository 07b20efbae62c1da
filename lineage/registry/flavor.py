"""How a network lies in MLflow, as a flavor of its own.

The module is an MLflow flavor (``save_model``, ``log_model``, ``load_model``, ``_load_pyfunc``), so
``mlflow.pyfunc.load_model("models:/digits/3")`` and ``mlflow models serve`` work wherever ``lineage`` is
installed. ``artifacts.py`` tells what the files are.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import torch
import yaml
from mlflow import MlflowClient, pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

from lineage.data.datasets import DataSpec
from lineage.errors import IntegrityError, NotFoundError
from lineage.models.ensemble import EnsembleNetwork, fit_to_data
from lineage.registry.family.family import Member, Version
from lineage.registry.store.artifacts import (
    MEMBERS_FOLDER,
    RECIPE_FILE,
    SCHEMA,
    STRUCTURE_FILE,
    WEIGHTS_FILE,
    LoadedModel,
    read_network,
    read_recipe,
    read_structure,
    weights_digest,
    write_files,
)
from lineage.registry.store.connection import safe_uri, translated_errors

__all__ = [
    "RECIPE_FILE",
    "STRUCTURE_FILE",
    "WEIGHTS_FILE",
    "LoadedModel",
    "load_member",
    "load_model",
    "load_version",
    "log_model",
    "read_model",
    "save_model",
    "signature",
    "weights_digest",
]

FLAVOR_NAME = "lineage"

_NOT_IN_A_MODEL_NAME = re.compile(r"[/:.%\"']")  # MLflow refuses them in a logged model, not a registered one


def save_model(model: LoadedModel, path: str, mlflow_model: Model | None = None) -> None:
    """Write ``model`` to the empty folder ``path``, with what MLflow wants beside it."""
    folder = Path(path)
    write_files(model, folder)
    requirements = _write_environment(folder)
    mlflow_model = mlflow_model or Model()
    mlflow_model.signature = signature(model.spec)
    mlflow_model.add_flavor(FLAVOR_NAME, schema=SCHEMA, weights=WEIGHTS_FILE, structure=STRUCTURE_FILE)
    pyfunc.add_to_model(
        mlflow_model,
        loader_module=__name__,
        conda_env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        requirements=requirements,
    )
    mlflow_model.save(str(folder / "MLmodel"))


def log_model(model: LoadedModel, name: str, run_id: str, step: int = 0) -> str:
    """Log ``model`` as an output of the run, shown as ``name``, with the run's metrics of ``step`` on it.

    In ``name`` an underscore takes the place of what MLflow refuses there.

    Returns:
        The ``m-…`` id it got.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    shown = _NOT_IN_A_MODEL_NAME.sub("_", name)
    # MLflow would put it into the active experiment, wherever its run lies
    logged = client.create_logged_model(
        run.info.experiment_id, shown, run_id, params=run.data.params, model_type=FLAVOR_NAME
    )
    Model.log(
        artifact_path=None,
        flavor=sys.modules[__name__],
        model=model,
        model_id=logged.model_id,
        run_id=run_id,
        step=step,
    )
    return str(logged.model_id)


def load_model(model_uri: str) -> LoadedModel:
    """The network behind an MLflow model URI, on the CPU and in evaluation mode."""
    folder = mlflow.artifacts.download_artifacts(artifact_uri=model_uri)
    return read_model(Path(folder))


def read_model(folder: Path) -> LoadedModel:
    """The model in a folder that ``save_model`` wrote; an ensemble's members are pulled where it embeds none.

    Raises:
        NotFoundError: If a file or a member is missing.
        IntegrityError: If a later version of the tool wrote it, a file is damaged, or weights are not those
            that structure or members were registered with.
    """
    structure = read_structure(folder)
    recipe = read_recipe(folder)
    name, spec = structure.name, structure.spec
    if not structure.members:
        return LoadedModel(read_network(folder, structure), name, structure.options, spec, recipe)
    copies = folder / MEMBERS_FOLDER
    models = [_read_member(copies / str(i), member) for i, member in enumerate(structure.members)]
    networks = [
        fit_to_data(model.network, model.spec, spec, f"models:/{member.id}")
        for model, member in zip(models, structure.members, strict=True)
    ]
    network = EnsembleNetwork(networks, [member.weight for member in structure.members]).eval()
    kept = tuple(models) if copies.is_dir() else ()
    return LoadedModel(network, name, {}, spec, recipe, structure.members, kept)


def load_version(version: Version) -> LoadedModel:
    """The model of ``version``, pulled from the registry and verified.

    Raises:
        IntegrityError: If the weights are not those that were registered.
        NotFoundError: If the store no longer holds them.
    """
    return _load(version.id, version.model_id, version.weights_sha256)


def load_member(member: Member) -> LoadedModel:
    """The model of an ensemble's member, likewise."""
    return _load(member.id, member.model_id, member.weights_sha256)


def _read_member(copy: Path, member: Member) -> LoadedModel:
    """A member of an ensemble: its embedded copy, or the version that it names."""
    if not copy.is_dir():
        return load_member(member)
    _require_digest(weights_digest(copy), member.id, member.weights_sha256)
    return read_model(copy)


@translated_errors()
def _load(version_id: str, model_id: str, weights_sha256: str) -> LoadedModel:
    with tempfile.TemporaryDirectory() as place:
        try:
            folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=place))
            found = weights_digest(folder)
        except NotFoundError as error:
            raise NotFoundError(
                f"The weights of models:/{version_id} must lie in {safe_uri()}, but do not;"
                f" restore the artifacts of {model_id}."
            ) from error
        _require_digest(found, version_id, weights_sha256)
        return read_model(folder)


def _require_digest(found: str, version_id: str, registered: str) -> None:
    if found != registered:
        raise IntegrityError(
            f"The weights of models:/{version_id} must have the SHA-256 {registered[:12]}… they were"
            f" registered with, but have {found[:12]}…; do not use them, restore its artifacts."
        )


def signature(spec: DataSpec) -> ModelSignature:
    """Pixel values in [0, 1], float32 of shape (any, C, H, W), to logits of shape (any, classes)."""
    single = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(single, (-1, *spec.input_shape))]),
        outputs=Schema([TensorSpec(single, (-1, spec.num_classes))]),
    )


class _PyfuncModel:
    """What ``mlflow.pyfunc`` calls."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def predict(
        self, pixels: npt.NDArray[np.float32], params: Mapping[str, Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits (B, classes) of pixel values in [0, 1], shape (B, C, H, W)."""
        del params  # none are defined; MLflow passes the argument all the same
        logits: npt.NDArray[np.float32] = self.model.logits(
            torch.from_numpy(np.ascontiguousarray(pixels))
        ).numpy()
        return logits


def _load_pyfunc(path: str) -> _PyfuncModel:
    """Called by MLflow with the model's folder."""
    return _PyfuncModel(read_model(Path(path)))


def _write_environment(folder: Path) -> str:
    """Write what MLflow's environment managers read; the name of the requirements file.

    ``lineage`` itself is not listed: install it beside, or serve with ``--env-manager local``.
    """
    packages = {
        "mlflow": mlflow.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__.split("+")[0],
    }
    requirements = [f"{name}=={version}" for name, version in packages.items()]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    (folder / "conda.yaml").write_text(yaml.safe_dump(_mlflow_conda_env(additional_pip_deps=requirements)))
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))
    return "requirements.txt"
