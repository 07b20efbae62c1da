"""Adoption: a network that ``lineage`` did not train becomes a version, and a teacher like any other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from lineage.data.images import DataSet, DataSpec
from lineage.errors import UsageError
from lineage.evaluation.data import default_top_k, full_test_subset, read_dataset
from lineage.evaluation.predictions import describe
from lineage.models.exported import ExportedNetwork
from lineage.models.networks import EXPORTED, WITH_WEIGHTS, build_network
from lineage.models.pretrained import (
    PRETRAINED,
    describe_weights,
    fit_state,
    read_state,
    strip_prefix,
)
from lineage.recipe import (
    DataSettings,
    NetworkSettings,
    Overrides,
    Sections,
    check_name,
    is_weights_file,
    override_texts,
    parse_settings,
    require_effect,
)
from lineage.registry.family.adopted import adoption_key, fetch_program, find_adopted, register_adopted
from lineage.registry.family.family import Version
from lineage.registry.store.artifacts import LoadedModel
from lineage.registry.store.connection import connect
from lineage.training.devices import accelerate_session, make_accelerator
from lineage.training.measurement import measure
from lineage.training.turns import on_main_process

_BATCH_SIZE = 128
_REMEDIES = {
    "data.name": "name the data set with --from-data",
    "network.name": "name the network with --network",
    "data": "leave it out, or name the data set with --from-data",
    "network": "leave it out, or name the network with --network",
}


class AdoptionSettings(Sections):
    """The sections of a recipe that say how a network is built and where its images are."""

    data: DataSettings | None = None
    network: NetworkSettings | None = None


@dataclass(frozen=True)
class Candidate:
    """A network with weights, or a model in MLflow, that is to be adopted.

    Attributes:
        network: Network, as ``network.name`` of a recipe; None for a model.
        weights: Safetensors file, or name of weights that torchvision lists for the network, or ``DEFAULT``
            for those of torchvision or timm, as None means.
        model: MLflow URI of a model logged with ``mlflow.pytorch``; None for a network.
        trust_pickle: Whether pickled weights and models may be read, which runs the code that they hold.
        strip_prefix: Beginning of every name in a file of weights to leave out, such as ``module.``.
    """

    network: str | None = None
    weights: str | None = None
    model: str | None = None
    trust_pickle: bool = False
    strip_prefix: str = ""


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of a candidate's pixels, if it is not that of its data.

    Attributes:
        mean: Mean of each channel, subtracted from pixel values in [0, 1].
        std: Deviation of each channel, by which the difference is divided.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Adoption:
    """The outcome of an adoption.

    Attributes:
        version: Version of kind ``adopted``.
        is_new: Whether it was registered now; False if the same network had been adopted before.
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
    overrides: Overrides = (),
    measured: bool = False,
) -> Adoption:
    """Register a network that ``lineage`` did not train as a version without a teacher.

    Rank 0 alone fetches and registers it; all processes measure it.

    Args:
        name: Registered model that gets the version; created if it is missing.
        candidate: Network or model to adopt.
        data: Data set it was trained on, as ``data.name`` of a recipe, for classes and input shape;
            torchvision's weights bring their own.
        normalisation: Normalisation of its pixels, in place of that of the data or of torchvision's weights.
        overrides: Values by key, or texts ``data.key=value`` and ``network.key=value`` for how the images are
            read and the network is built; settings without effect are refused.
        measured: Whether to measure it on the test part of the data.

    Returns:
        The version, and whether it is new.

    Raises:
        UsageError: If no model may have the name, arguments do not go together, an override has no effect, or
            the network does not fit its weights or the data.
        NotFoundError: If the model, a file or the images are not there.
        IntegrityError: If weights are pickled and not trusted, or damaged.
        RegistryError: If the store cannot be reached or written.

    Examples:
        >>> candidate = lineage.Candidate(network="torchvision:resnet18", weights="IMAGENET1K_V1")
        >>> lineage.adopt("resnet18", candidate).version.uri
        'models:/resnet18/1'
    """
    check_name(name, "NAME")
    _check(candidate, data, measured)
    settings = _read_settings(candidate, data, override_texts(overrides), measured)
    accelerator = make_accelerator()
    dataset = None if settings.data is None else read_dataset(settings.data)
    spec = _describe(candidate, dataset, normalisation)
    model, existing = on_main_process(lambda: _fetch(name, candidate, settings.network, spec))
    if existing is not None:
        return Adoption(existing, is_new=False)
    metrics: dict[str, float] = {}
    if measured and dataset is not None and settings.data is not None:
        metrics, predictions = _measure(accelerator, model, dataset, settings.data.workers)
        model = replace(model, predictions=predictions)
    origin = {
        "network": model.network_name,
        "weights": candidate.weights,
        "model": candidate.model,
        "data": data,
    }
    params = {key: value for key, value in origin.items() if value is not None}
    version = on_main_process(lambda: register_adopted(name, model, metrics, params))
    return Adoption(version, is_new=True)


def _check(candidate: Candidate, data: str | None, measured: bool) -> None:
    """Refuse arguments that do not go together."""
    if (candidate.network is None) == (candidate.model is None):
        raise UsageError("Either --network or --model must be given, but got both or neither.")
    has_weights = (candidate.network or "").startswith(WITH_WEIGHTS)
    if data is None and not has_weights:
        raise UsageError(
            "--from-data must name the data that it was trained on, for classes and input shape."
        )
    if candidate.model is not None and candidate.weights is not None:
        raise UsageError("--weights must come with --network, but got --model, which has its own.")
    if candidate.network is not None and candidate.weights is None and not has_weights:
        raise UsageError(
            f"--weights must be given for network '{candidate.network}', which has none of its own."
        )
    if candidate.strip_prefix and (candidate.weights is None or _named_weights(candidate)):
        raise UsageError("--strip-prefix must come with a file of --weights, but got none; leave it out.")
    if measured and data is None:
        raise UsageError("--measure needs images; name them with --from-data.")


def _read_settings(
    candidate: Candidate, data: str | None, overrides: Sequence[str], measured: bool
) -> AdoptionSettings:
    """Return the settings of the sections that the candidate uses, with ``overrides`` applied."""
    defaults = {}
    used = []
    if data is not None:
        defaults["data"] = {"name": data}
        used += ["data.root", "data.download", "data.test", "data.options", "data.image_size"]
    if measured:
        used.append("data.workers")
    if candidate.network is not None:
        defaults["network"] = {"name": candidate.network}
        used += ["network.width", "network.options"]
    require_effect(overrides, used, "adopting this candidate", _REMEDIES)
    settings = parse_settings(AdoptionSettings, defaults, overrides)
    if settings.network is not None and "weights" in settings.network.options:
        raise UsageError(
            "Weights must be named with --weights, but got --set network.options.weights="
            f"{settings.network.options['weights']}; leave it out."
        )
    return settings


def _describe(candidate: Candidate, dataset: DataSet | None, normalisation: Normalisation | None) -> DataSpec:
    """Return classes, input shape and normalisation of what is adopted.

    Weights of torchvision and timm keep their own normalisation, even if the classes are those of the data.
    """
    described = None if dataset is None else dataset.spec
    weights = _named_weights(candidate)
    if candidate.network is not None and (weights is not None or described is None):
        own = describe_weights(candidate.network, weights or PRETRAINED)
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


def _named_weights(candidate: Candidate) -> str | None:
    """Return the name that torchvision or timm give the candidate's weights; None for a file or a model."""
    if not (candidate.network or "").startswith(WITH_WEIGHTS):
        return None
    weights = candidate.weights or PRETRAINED
    return None if is_weights_file(weights) else weights


def _fetch(
    name: str, candidate: Candidate, settings: NetworkSettings | None, spec: DataSpec
) -> tuple[LoadedModel, Version | None]:
    """Return the loaded candidate, and the version of ``name`` that holds it already, if there is one."""
    connect()
    model = _load(candidate, settings, spec)
    return model, find_adopted(name, adoption_key(model))


def _load(candidate: Candidate, settings: NetworkSettings | None, spec: DataSpec) -> LoadedModel:
    """Return the candidate with its weights, in evaluation mode."""
    shape = spec.input_shape
    if candidate.model is not None:
        exported = ExportedNetwork(spec.num_classes, shape)
        exported.read(fetch_program(candidate.model, shape, candidate.trust_pickle))
        return LoadedModel(exported.eval(), EXPORTED, {}, spec)
    assert candidate.network is not None and settings is not None
    options = settings.builder_options
    weights = _named_weights(candidate)
    if weights is not None:
        options = options | {"weights": weights}
    network = build_network(candidate.network, spec.num_classes, shape, options)
    if weights is None:
        assert candidate.weights is not None
        file = Path(candidate.weights).expanduser()
        state = strip_prefix(read_state(file, candidate.trust_pickle), candidate.strip_prefix)
        fit_state(network, state, candidate.network)
    network.to(memory_format=torch.channels_last).eval()
    return LoadedModel(network, candidate.network, options, spec)


def _measure(
    accelerator: Accelerator, model: LoadedModel, dataset: DataSet, workers: int
) -> tuple[dict[str, float], str]:
    """Return metrics and predictions of the test part, normalised as the model wants it."""
    subset = full_test_subset(dataset, _BATCH_SIZE, workers, normalised_as=model.spec)
    network = model.network.to(accelerator.device)
    top_k = default_top_k(model.spec.num_classes)
    measured = measure(accelerator, network, subset, top_k, keep_top_classes=True)
    metrics = {f"test_{name}": value for name, value in measured.metrics.items()}
    return metrics, describe(measured.top_classes)
