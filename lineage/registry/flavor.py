"""The MLflow flavor of ``lineage``: its networks are saved, logged and loaded by this module.

It has what MLflow asks of a flavor (``save_model``, ``log_model``, ``load_model``, ``_load_pyfunc``), so that
``mlflow.pyfunc.load_model("models:/digits/3")`` and ``mlflow models serve`` work wherever ``lineage`` is
installed. Every logged model names this module, which therefore must keep its name. ``store/artifacts.py``
describes the files.
"""

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import torch
from mlflow import MlflowClient, pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from lineage.data.images import DataSpec
from lineage.errors import IntegrityError, NotFoundError, UsageError
from lineage.models.ensemble import EnsembleNetwork, fit_to_data
from lineage.registry.family.family import Version
from lineage.registry.family.tags import Member
from lineage.registry.store.artifacts import (
    MEMBERS_FOLDER,
    SCHEMA,
    STRUCTURE_FILE,
    LoadedModel,
    read_network,
    read_recipe,
    read_structure,
    require_numbers,
    weights_digest,
    write_files,
)
from lineage.registry.store.connection import safe_uri, translated_errors
from lineage.registry.store.environment import write_environment
from lineage.registry.store.files import (
    FILES_TAG,
    WEIGHTS_FILE,
    files_digest,
    require_files,
    require_own_loader,
    require_registered_files,
)
from lineage.registry.store.runs import FLAVOR_NAME, metrics_now

__all__ = [
    "FLAVOR_NAME",
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


_OUTPUT = "output"
_NOT_IN_A_MODEL_NAME = re.compile(r"[/:.%\"']")  # MLflow refuses them in a logged model, not a registered one


def save_model(
    model: LoadedModel,
    path: str,
    mlflow_model: Model | None = None,
    on_saved: Callable[[Path], object] = lambda _: None,
) -> None:
    """Write ``model`` to the empty folder ``path``, with the files that MLflow requires of any model.

    Args:
        model: Network to save.
        path: Folder.
        mlflow_model: What MLflow already knows of the model.
        on_saved: Called with the folder once all files are there.
    """
    folder = Path(path)
    write_files(model, folder)
    requirements = write_environment(folder)
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
    on_saved(folder)


@translated_errors()
def log_model(model: LoadedModel, name: str, run_id: str, metrics: Mapping[str, float], step: int = 0) -> str:
    """Log ``model`` as an output of a run, with the run's metrics of ``step`` and its final ones on it.

    Args:
        model: Network to log.
        name: Name of the logged model; characters that MLflow refuses become underscores.
        run_id: Id of the run.
        metrics: Final metrics, logged with the model unless the run has them already.
        step: Number of the last epoch.

    Returns:
        The ``m-…`` id of the logged model, whose tag ``lineage.files_sha256`` has the digest of its files.

    Raises:
        IntegrityError: If weights are not numbers.
    """
    require_numbers(model.network, "the model to register")
    client = MlflowClient()
    run = client.get_run(run_id)
    # Created here, since MLflow would put it into the active experiment instead of the run's
    logged = client.create_logged_model(
        run.info.experiment_id,
        _NOT_IN_A_MODEL_NAME.sub("_", name),
        run_id,
        params=run.data.params,
        model_type=FLAVOR_NAME,
    )
    model_id = str(logged.model_id)
    # Before the final metrics: a metric that names a model makes it the run's input unless it is its output
    digests: list[str] = []
    try:
        Model.log(
            artifact_path=None,
            flavor=sys.modules[__name__],
            model=model,
            model_id=model_id,
            run_id=run_id,
            step=step,
            on_saved=lambda folder: digests.append(files_digest(folder)),
        )
    except BaseException:
        with suppress(MlflowException):  # the first error is the one to report
            client.delete_logged_model(model_id)
        raise
    client.set_logged_model_tags(model_id, {FILES_TAG: digests[-1]})
    final = {key: value for key, value in metrics.items() if key not in run.data.metrics}
    client.log_batch(run_id, metrics_now(final, step, model_id=model_id))
    return model_id


def load_model(model_uri: str) -> LoadedModel:
    """Load the network behind an MLflow model URI, on the CPU and in evaluation mode."""
    folder = mlflow.artifacts.download_artifacts(artifact_uri=model_uri)
    return read_model(Path(folder))


def read_model(folder: Path) -> LoadedModel:
    """Load the model in a folder that ``save_model`` wrote; members that it does not embed are pulled.

    Raises:
        NotFoundError: If a file or a member is missing.
        IntegrityError: If a later version of the tool wrote it, a file is damaged, MLflow would load it by
            other code, or a member has other files than those it was registered with.
    """
    require_own_loader(folder)
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
    embedded = tuple(models) if copies.is_dir() else ()
    return LoadedModel(network, name, {}, spec, recipe, structure.members, embedded)


def load_version(version: Version) -> LoadedModel:
    """Pull the model of ``version`` from the registry and verify its files.

    Raises:
        IntegrityError: If the files are not those that were registered; of a version without their digest,
            if the weights are not.
        NotFoundError: If the store no longer holds them.
    """
    return _load(version.id, version)


def load_member(member: Member) -> LoadedModel:
    """Pull the model of an ensemble's member from the registry and verify its files."""
    return _load(member.id, member)


def _read_member(copy: Path, member: Member) -> LoadedModel:
    """Load a member of an ensemble: its embedded copy, or else the version that it names."""
    if not copy.is_dir():
        return load_member(member)
    _require_digest(weights_digest(copy), member.id, member.weights_sha256)
    return read_model(copy)


@translated_errors()
def _load(version_id: str, pinned: Version | Member) -> LoadedModel:
    model_id = pinned.model_id
    with tempfile.TemporaryDirectory() as place:
        try:
            folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=place))
            digest = weights_digest(folder)
        except NotFoundError as error:
            raise NotFoundError(
                f"The weights of models:/{version_id} must lie in {safe_uri()}, but do not;"
                f" restore the artifacts of {model_id}; if the family was packed without weights, use the"
                " store that it was packed from."
            ) from error
        _require_digest(digest, version_id, pinned.weights_sha256)
        if pinned.files_sha256:
            require_files(folder, f"models:/{version_id}", pinned.files_sha256)
        return read_model(folder)


def _require_digest(found: str, version_id: str, registered: str) -> None:
    if found != registered:
        raise IntegrityError(
            f"The weights of models:/{version_id} must have the SHA-256 {registered[:12]}… they were"
            f" registered with, but have {found[:12]}…; do not use them, restore its artifacts."
        )


def signature(spec: DataSpec) -> ModelSignature:
    """Return the signature: pixel values in [0, 1], float32 (B, C, H, W), to logits, float32 (B, classes).

    Its parameter ``output`` is ``logits``, the default, or ``probabilities``.
    """
    single = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(single, (-1, *spec.input_shape))]),
        outputs=Schema([TensorSpec(single, (-1, spec.num_classes))]),
        params=ParamSchema([ParamSpec(_OUTPUT, DataType.string, "logits")]),
    )


class _PyfuncModel:
    """The model as ``mlflow.pyfunc`` calls it."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def predict(
        self, pixels: npt.NDArray[np.float32], params: Mapping[str, Any] | None = None
    ) -> npt.NDArray[np.float32] | dict[str, Any]:
        """Return logits (B, classes) of pixel values in [0, 1], shape (B, C, H, W), or probabilities.

        Args:
            pixels: Pixel values.
            params: Parameters of the signature. With ``output`` as ``probabilities``, a dict is returned:
                ``probabilities`` (B, classes), ``class_names`` in their order, and ``predicted``, the name
                of each image's most probable class.

        Raises:
            UsageError: If ``output`` is neither ``logits`` nor ``probabilities``.
        """
        output = (params or {}).get(_OUTPUT, "logits")
        if output not in ("logits", "probabilities"):
            raise UsageError(f"The parameter 'output' must be logits or probabilities, but got '{output}'.")
        logits = self.model.logits(torch.from_numpy(np.ascontiguousarray(pixels)))
        if output == "logits":
            return logits.numpy()
        names = self.model.class_names
        return {
            "probabilities": logits.softmax(1).numpy(),
            "class_names": list(names),
            "predicted": [names[index] for index in logits.argmax(1).tolist()],
        }


def _load_pyfunc(path: str) -> _PyfuncModel:
    """Load the model in a folder for ``mlflow.pyfunc``, which calls this function.

    Raises:
        AlteredFilesError: If the store in use holds another digest of the model's files.
    """
    require_registered_files(Path(path))
    return _PyfuncModel(read_model(Path(path)))
