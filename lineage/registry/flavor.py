"""How a network lies in MLflow: safetensors and JSON, no pickle and no code.

The layout of one logged model::

    MLmodel               flavors ``lineage`` and ``python_function``, signature
    weights.safetensors   parameters and buffers
    lineage.json          how to build the network; the data set's classes and normalisation
    recipe.json           the resolved recipe it was grown from, as it was given
    requirements.txt …    what MLflow wants beside it

The module is an MLflow flavor (``save_model``, ``log_model``, ``load_model``, ``_load_pyfunc``), so
``mlflow.pyfunc.load_model("models:/digits/3")`` and ``mlflow models serve`` work wherever ``lineage`` is
installed.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
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
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lineage.errors import IntegrityError, NotFoundError
from lineage.registry.ancestry import Version
from lineage.registry.store import safe_uri, translated_errors
from lineage.vision.datasets import Description
from lineage.vision.networks import build_network, options_without_weights

FLAVOR_NAME = "lineage"
SCHEMA = 1
WEIGHTS_FILE = "weights.safetensors"
STRUCTURE_FILE = "lineage.json"
RECIPE_FILE = "recipe.json"

_NOT_IN_A_MODEL_NAME = re.compile(r"[/:.%\"']")  # MLflow refuses them in a logged model, not a registered one


@dataclass(frozen=True)
class LoadedModel:
    """A network together with what is needed to use it.

    Attributes:
        network: In evaluation mode; takes normalised images (B, C, H, W), has ``features`` and gives logits.
        network_name: As in a recipe.
        network_options: Of its builder.
        description: Class names, normalisation and digest of the data it was trained on.
        recipe: The resolved recipe as JSON, or "" for a network that no recipe made.
    """

    network: nn.Module
    network_name: str
    network_options: Mapping[str, Any]
    description: Description
    recipe: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.description.class_names

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel's pixel values in [0, 1]: subtracted before the network."""
        return self.description.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel's pixel values in [0, 1]: divided by before the network."""
        return self.description.std

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (B, classes) for pixel values in [0, 1]: float32 (B, C, H, W), on the network's device."""
        mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (self.mean, self.std))
        with torch.inference_mode():
            logits: Tensor = self.network((pixels - mean) / std)
        return logits


def save_model(model: LoadedModel, path: str, mlflow_model: Model | None = None) -> None:
    """Write ``model`` to the empty folder ``path`` in the layout above."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(_serialized(model.network))
    structure = {
        "schema": SCHEMA,
        "network": {
            "name": model.network_name,
            "options": options_without_weights(model.network_name, model.network_options),
        },
        "data": model.description.to_json(),
    }
    (folder / STRUCTURE_FILE).write_text(json.dumps(structure, indent=1))
    if model.recipe:
        (folder / RECIPE_FILE).write_text(model.recipe)
    requirements = _write_environment(folder)
    mlflow_model = mlflow_model or Model()
    mlflow_model.signature = signature(model.description)
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
    """The network in a folder that ``save_model`` wrote.

    Raises:
        NotFoundError: If a file is missing.
        IntegrityError: If a later version of the tool wrote it, a file is damaged, or weights and structure
            differ.
    """
    weights_file = _file(folder, WEIGHTS_FILE)
    name, options, data = _read_structure(_file(folder, STRUCTURE_FILE))
    description = Description.from_json(data)
    network = build_network(name, description.num_classes, description.input_shape, options)
    try:
        network.load_state_dict(load_file(weights_file))
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(
            f"The weights must fit network '{name}', but do not ({reason}); restore its files."
        ) from error
    network.to(memory_format=torch.channels_last).eval()
    recipe = folder / RECIPE_FILE
    text = recipe.read_text() if recipe.is_file() else ""
    return LoadedModel(network, name, options, description, text)


@translated_errors()
def load_version(version: Version) -> LoadedModel:
    """The network of ``version``, pulled from the registry and verified.

    Raises:
        IntegrityError: If the weights are not those that were registered.
        NotFoundError: If the store no longer holds them.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.model_id}", dst_path=place))
        try:
            found = weights_digest(folder)
        except NotFoundError as error:
            raise NotFoundError(
                f"The weights of {version.uri} must lie in {safe_uri()}, but do not; restore the artifacts of"
                f" {version.model_id}."
            ) from error
        if found != version.weights_sha256:
            raise IntegrityError(
                f"The weights of {version.uri} must have the SHA-256 {version.weights_sha256[:12]}… they were"
                f" registered with, but have {found[:12]}…; do not use them, restore the artifacts of"
                f" {version.model_id}."
            )
        return read_model(folder)


def weights_digest(weights: nn.Module | Path) -> str:
    """SHA-256, in hex, of a network's weights, or of those in a folder that ``save_model`` wrote.

    Raises:
        NotFoundError: If the folder holds no weights.
    """
    if isinstance(weights, nn.Module):
        return hashlib.sha256(_serialized(weights)).hexdigest()
    with _file(weights, WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def signature(description: Description) -> ModelSignature:
    """Pixel values in [0, 1], float32 of shape (any, C, H, W), to logits of shape (any, classes)."""
    single = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(single, (-1, *description.input_shape))]),
        outputs=Schema([TensorSpec(single, (-1, description.num_classes))]),
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


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NotFoundError(
            f"A model of lineage must hold {name}, but this one does not; was it logged by lineage?"
        )
    return path


def _read_structure(file: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The network's name and options and the description of its data, as ``lineage.json`` holds them."""
    try:
        structure = json.loads(file.read_text())
        schema = int(structure["schema"])
        if schema > SCHEMA:
            raise IntegrityError(
                f"The model's schema must be at most {SCHEMA}, but is {schema}; update lineage."
            )
        network = structure["network"]
        return network["name"], network["options"], structure["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{STRUCTURE_FILE} must be what lineage wrote, but is not ({error}); restore it."
        ) from error


def _serialized(network: nn.Module) -> bytes:
    """The weights file: safetensors sorts by type and name, so equal weights give equal bytes.

    Copies, since safetensors refuses tensors that share memory, as tied weights do.
    """
    values = network.state_dict().items()
    return save({name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in values})


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
