"""Adoption: a network that ``lineage`` did not train becomes a version, and a teacher like any other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from lineage.data.datasets import DataSet, DataSpec, load_dataset
from lineage.errors import UsageError
from lineage.models.exported import ExportedNetwork
from lineage.models.networks import EXPORTED, build_network
from lineage.models.pretrained import describe_torchvision, fit_state, read_state
from lineage.models.torchvision import PREFIX, known_weights
from lineage.recipe import Recipe, change_recipe
from lineage.registry.family.adopted import adoption_key, fetch_program, find_adopted, register_adopted
from lineage.registry.family.family import Version
from lineage.registry.flavor import LoadedModel
from lineage.registry.store.connection import connect
from lineage.training.devices import accelerate_session, in_turns, make_accelerator, on_main_process
from lineage.training.measurement import Subset, measure

_BATCH_SIZE = 128
_MOST_CLASSES_RANKED = 5
_SECTIONS = ("data", "network")


@dataclass(frozen=True)
class Candidate:
    """What is to be adopted: a network with weights, or a model that stands in MLflow.

    Attributes:
        network: As in a recipe; None for a model.
        weights: A file of safetensors, or the name of weights that torchvision lists for the network; its
            best ones if None.
        model: MLflow's URI of a model that was logged with ``mlflow.pytorch``; None for a network.
        trust_pickle: Whether pickled weights and models may be read, which runs whatever code they hold.
    """

    network: str | None = None
    weights: str | None = None
    model: str | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class Normalisation:
    """How the candidate wants its pixels, where that is not as of the data.

    Attributes:
        mean: Subtracted from each channel's pixel values in [0, 1].
        std: What they are divided by then.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Adoption:
    """What was adopted.

    Attributes:
        version: Of kind ``adopted``.
        is_new: Whether it was registered now; the same network had been adopted before otherwise.
    """

    version: Version
    is_new: bool


@accelerate_session()
def adopt(
    name: str,
    candidate: Candidate,
    *,
    data: str | None = None,
    normalisation: Normalisation | None = None,
    overrides: Sequence[str] = (),
    measured: bool = False,
) -> Adoption:
    """Register a network that ``lineage`` did not train as a version without a teacher.

    Rank 0 alone fetches and registers it; all processes measure it.

    Args:
        name: Of the registered model, created where it is missing.
        candidate: What to adopt.
        data: Data set that it was trained on, as ``data.name`` of a recipe, for classes and input shape.
            Weights of torchvision's bring theirs along.
        normalisation: Of its pixels, in place of that of the data or of torchvision's weights.
        overrides: ``data.key=value`` and ``network.key=value``, as after ``--set``.
        measured: Whether to measure it on the test part of the data.

    Raises:
        UsageError: If arguments do not go together, or the network does not fit weights or data.
        NotFoundError: If a model, a file or the data are not there.
        IntegrityError: If weights are pickled and not trusted, or damaged.
        RegistryError: If the store cannot be reached or written.
    """
    _check(candidate, data, measured)
    settings = _settings(name, candidate, data, overrides)
    accelerator = make_accelerator()
    dataset = _dataset(settings) if data is not None else None
    spec = _describe(candidate, dataset, normalisation)
    model, found = on_main_process(lambda: _fetch(name, candidate, settings, spec))
    if found is not None:
        return Adoption(found, is_new=False)
    metrics = {}
    if measured and dataset is not None:
        metrics = _measure(accelerator, model, dataset, settings.data.workers)
    origin = {
        "network": model.network_name,
        "weights": candidate.weights,
        "model": candidate.model,
        "data": data,
    }
    known = {key: value for key, value in origin.items() if value is not None}
    version = on_main_process(lambda: register_adopted(name, model, metrics, known))
    return Adoption(version, is_new=True)


def _check(candidate: Candidate, data: str | None, measured: bool) -> None:
    """Refuse arguments that do not go together."""
    if (candidate.network is None) == (candidate.model is None):
        raise UsageError("Either --network or --model must be given, but got both or neither.")
    of_torchvision = (candidate.network or "").startswith(PREFIX)
    if data is None and not of_torchvision:
        raise UsageError(
            "--from-data must name the data that it was trained on, for classes and input shape."
        )
    if candidate.model is not None and candidate.weights is not None:
        raise UsageError("--weights must come with --network, but got --model, which has its own.")
    if candidate.network is not None and candidate.weights is None and not of_torchvision:
        raise UsageError(
            f"--weights must be given for network '{candidate.network}', which has none of its own."
        )
    if measured and data is None:
        raise UsageError("--measure needs images; name them with --from-data.")


def _settings(name: str, candidate: Candidate, data: str | None, overrides: Sequence[str]) -> Recipe:
    """What ``--set`` says, in the form of a recipe, so that it is read and refused as one's is."""
    for override in overrides:
        section = override.partition(".")[0].strip()
        if section not in _SECTIONS:
            raise UsageError(f"--set must give data.KEY=VALUE or network.KEY=VALUE, but got '{override}'.")
    base = {
        "model": {"name": name},
        "data": {"name": data or "digits"},
        "network": {"name": candidate.network or "resnet8"},
        "patriarch": {"objective": "strict"},
        "student": {"label_weight": 1.0},
        "training": {"epochs": 0},
    }
    return change_recipe(Recipe.from_dict(base), overrides)


def _dataset(settings: Recipe) -> DataSet:
    data = settings.data
    return in_turns(lambda: load_dataset(data.name, data.root, data.download, data.image_size))


def _describe(candidate: Candidate, dataset: DataSet | None, normalisation: Normalisation | None) -> DataSpec:
    """Classes, input shape and normalisation of what is adopted.

    Weights of torchvision's are normalised as torchvision says, also where the classes are those of the data.
    """
    described = dataset.spec if dataset is not None else None
    weights = _torchvision_weights(candidate)
    if candidate.network is not None and (weights is not None or described is None):
        own = describe_torchvision(candidate.network, weights or "DEFAULT")
        if described is None:
            described = own
        elif described.num_classes != own.num_classes:
            raise UsageError(
                f"Weights {weights} have {own.num_classes} classes, but '{described.name}' has"
                f" {described.num_classes}; name the data that they were trained on."
            )
        described = replace(described, mean=own.mean, std=own.std)
    assert described is not None
    if normalisation is not None:
        channels = described.input_shape[0]
        if not (len(normalisation.mean) == len(normalisation.std) == channels) or min(normalisation.std) <= 0:
            raise UsageError(
                f"--mean and --std must give {channels} numbers each, those of --std positive, but got"
                f" {list(normalisation.mean)} and {list(normalisation.std)}."
            )
        described = replace(described, mean=normalisation.mean, std=normalisation.std)
    return described


def _torchvision_weights(candidate: Candidate) -> str | None:
    """The name of the weights of torchvision's that are asked for, or None for a file or a model."""
    if not (candidate.network or "").startswith(PREFIX):
        return None
    weights = candidate.weights or "DEFAULT"
    is_path = Path(weights).suffix != "" or "/" in weights or Path(weights).exists()
    return None if is_path else weights


def _fetch(
    name: str, candidate: Candidate, settings: Recipe, spec: DataSpec
) -> tuple[LoadedModel, Version | None]:
    """The candidate, and the version of ``name`` that it is already, if it is one."""
    connect()
    model = _load(candidate, settings, spec)
    return model, find_adopted(name, adoption_key(model))


def _load(candidate: Candidate, settings: Recipe, spec: DataSpec) -> LoadedModel:
    """The candidate, read and fitted, in evaluation mode."""
    shape = spec.input_shape
    if candidate.model is not None:
        exported = ExportedNetwork(spec.num_classes, shape)
        exported.read(fetch_program(candidate.model, shape, candidate.trust_pickle))
        return LoadedModel(exported.eval(), EXPORTED, {}, spec)
    assert candidate.network is not None
    options = settings.network.options | ({"width": settings.network.width} if settings.network.width else {})
    weights = _torchvision_weights(candidate)
    if weights is not None:
        known_weights(candidate.network, weights)
        options = options | {"weights": weights}
    network = build_network(candidate.network, spec.num_classes, shape, options)
    if weights is None:
        assert candidate.weights is not None
        file = Path(candidate.weights).expanduser()
        fit_state(network, read_state(file, candidate.trust_pickle), candidate.network)
    network.to(memory_format=torch.channels_last).eval()
    return LoadedModel(network, candidate.network, options, spec)


def _measure(
    accelerator: Accelerator, model: LoadedModel, dataset: DataSet, workers: int
) -> dict[str, float]:
    """Numbers of the test part, normalised as the model wants it."""
    rows = torch.arange(len(dataset.test))
    part = Subset(dataset.test, rows, model.spec, _BATCH_SIZE, workers)
    top_k = min(_MOST_CLASSES_RANKED, model.spec.num_classes)
    found = measure(accelerator, model.network.to(accelerator.device), part, top_k)
    return {f"test_{name}": value for name, value in found.metrics.items()}
