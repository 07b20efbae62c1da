"""Registered versions on their test sets: loaded, and measured again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from ignite.engine import Engine
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from lineage.data.images import DataSpec
from lineage.errors import IntegrityError, RecipeError, UsageError
from lineage.evaluation.data import default_top_k, full_test_subset, read_dataset
from lineage.evaluation.data_index import require_named, stored_recipe
from lineage.extensions import source_of
from lineage.models.ensemble import fit_to_data
from lineage.recipe import (
    DataSettings,
    Overrides,
    Recipe,
    Section,
    Sections,
    override_texts,
    parse_settings,
    require_effect,
)
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.flavor import load_version
from lineage.registry.store.artifacts import LoadedModel
from lineage.training.devices import accelerate_session, make_accelerator
from lineage.training.measurement import Subset, measure
from lineage.training.metrics import classification_metrics
from lineage.training.turns import on_main_process

BATCH_SETTINGS = (
    "data.name",
    "data.root",
    "data.download",
    "data.test",
    "data.options",
    "data.image_size",
    "data.workers",
    "training.batch_size",
)
TOLERANCE = 0.005
"""Largest difference from the record, absolute or as a share of it, that other hardware may explain."""

_IMAGES_TOLERATED = 2  # of a small test set, one image that falls into another class or bin is more than that
_OF_TOP_K = ("test_top_score_difference", "test_secondary_mass")

METRIC_SETTINGS = (*BATCH_SETTINGS, "patriarch.top_k")


class BatchSettings(Section):
    """Settings of ``[training]`` that a measurement uses."""

    batch_size: PositiveInt = 128


class MetricSettings(Section):
    """Settings of ``[patriarch]`` that a measurement uses."""

    top_k: Annotated[int, Field(ge=2)]


class MeasurementSettings(Sections):
    """The sections of a recipe that say how a version is measured."""

    data: DataSettings
    training: BatchSettings = BatchSettings()
    patriarch: MetricSettings


@dataclass(frozen=True)
class Evaluation:
    """A version measured again on its test set.

    Attributes:
        version: Version that was measured.
        metrics: Metrics measured now, by name.
        recorded: Metrics recorded when the version was registered, of the same names.
    """

    version: Version
    metrics: dict[str, float]
    recorded: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        return {"uri": self.version.uri, "metrics": self.metrics, "recorded": self.recorded}


def load(uri: str) -> LoadedModel:
    """Load a registered version, ready for inference.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Returns:
        The network in evaluation mode, with its classes, normalisation and recipe.

    Raises:
        UsageError: If ``uri`` has another form.
        NotFoundError: If the store does not hold the version.
        IntegrityError: If its weights are not those that were registered.

    Examples:
        >>> model = lineage.load("models:/digits@best")
        >>> model.logits(pixels).argmax(1)  # pixels (B, C, H, W) in [0, 1]
    """
    return load_version(find_version(uri))


@accelerate_session()
def evaluate(uri: str, overrides: Overrides = ()) -> Evaluation:
    """Measure a version again on the test set that it was grown on or adopted for.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        overrides: Values by key, or texts ``section.key=value`` that change where and how the images are
            read, such as ``data.root=FOLDER``; other settings have no effect on a measurement and are
            refused.

    Returns:
        The metrics measured now, beside those recorded at registration.

    Raises:
        UsageError: If an override has no effect, or the version was adopted for no data set and the overrides
            name none.
        NotFoundError: If the version or the images are not there.
        IntegrityError: If the images or the weights are not those that were registered, or a metric differs
            from the record by more than .005, half a percent of it, and two images: the code has changed.

    Examples:
        >>> evaluation = lineage.evaluate("models:/cifar100@best", ["data.root=/data/cifar100"])
        >>> evaluation.metrics["test_accuracy"] == evaluation.recorded["test_accuracy"]
        True
    """
    accelerator = make_accelerator()
    version = on_main_process(lambda: find_version(uri))
    model = on_main_process(lambda: load_version(version))
    settings = read_measurement_settings(uri, model, override_texts(overrides))
    subset = read_test_subset(settings, model.spec)
    require_same_data(uri, model.spec, subset.spec)
    network = model.network.to(accelerator.device)
    measured = measure(accelerator, network, subset, settings.patriarch.top_k)
    metrics = {f"test_{name}": value for name, value in measured.metrics.items()}
    recorded = {name: version.metrics[name] for name in metrics if name in version.metrics}
    unlike = () if settings.patriarch.top_k == _recorded_top_k(model) else _OF_TOP_K
    compared = {name: value for name, value in recorded.items() if name not in unlike}
    _require_recorded(version, metrics, compared, len(subset))
    return Evaluation(version, metrics, recorded)


def _recorded_top_k(model: LoadedModel) -> int:
    """Return K of the metrics that were recorded."""
    if model.recipe:
        return Recipe.from_json(model.recipe).patriarch.top_k
    return default_top_k(model.spec.num_classes)


def _require_recorded(
    version: Version, measured: Mapping[str, float], recorded: Mapping[str, float], num_images: int
) -> None:
    """Refuse metrics that differ from the record by more than other hardware explains.

    Raises:
        IntegrityError: If one does.
    """
    least = _IMAGES_TOLERATED / num_images
    differing = [
        f"{name} {now:.4g} in place of {value:.4g}"
        for name, value, now in ((name, value, measured[name]) for name, value in recorded.items())
        if not math.isclose(now, value, rel_tol=TOLERANCE, abs_tol=max(TOLERANCE, least))
        and not (math.isnan(value) and math.isnan(now))
    ]
    if differing:
        raise IntegrityError(
            f"{version.uri} must measure as it is recorded, within {TOLERANCE:g}, but has"
            f" {', '.join(differing)}; {_suspect(version)}."
        )


def _suspect(version: Version) -> str:
    """Return what the differences may come from, and what to do."""
    for kind, code in version.code.items():
        now = source_of(kind.partition(" ")[0], code["name"])
        if now is None or now.sha256 != code["sha256"]:
            there = f"{now.version} with the source {now.sha256[:12]}…" if now else "missing"
            return (
                f"the code of '{code['name']}' has changed: it was grown with {code['distribution']}"
                f" {code['version']} of the source {code['sha256'][:12]}…, and here that is {there}; install"
                " the former, or grow it anew"
            )
    return "use the versions of lineage and of its libraries that its run names, or grow it anew"


def read_measurement_settings(
    uri: str, model: LoadedModel, overrides: Sequence[str], used: Sequence[str] = METRIC_SETTINGS
) -> MeasurementSettings:
    """Return how a version is measured: as its recipe says, or as an adopted one's description does.

    Args:
        uri: URI of the version, for errors.
        model: Loaded version.
        overrides: Texts ``section.key=value``, as after ``--set``.
        used: Keys that the caller uses; overrides of others are refused.

    Raises:
        UsageError: If an override has no effect or cannot hold, or the version was adopted for no data set
            and the overrides name none.
    """
    require_effect(overrides, used, "a measurement")
    if model.recipe:
        recipe = stored_recipe(model.recipe, model.spec)
        settings = parse_settings(
            MeasurementSettings,
            {
                "data": recipe.data.model_dump(exclude_none=True),
                "training": {"batch_size": recipe.training.batch_size},
                "patriarch": {"top_k": recipe.patriarch.top_k},
            },
            overrides,
        )
        require_named(settings.data, recipe.data.name, model.spec.digest)
        return settings
    _, height, width = model.spec.input_shape
    described = {
        "data": {"name": model.spec.name, "image_size": height if height == width else None},
        "patriarch": {"top_k": default_top_k(model.spec.num_classes)},
    }
    if not any(override.partition("=")[0].strip() == "data.name" for override in overrides):
        try:
            parse_settings(MeasurementSettings, described)
        except RecipeError as error:
            raise UsageError(
                f"{uri} must be given its images, since it was adopted with '{model.spec.name}', which names"
                " none; add --set data.name=NAME."
            ) from error
    settings = parse_settings(MeasurementSettings, described, overrides)
    require_named(settings.data, model.spec.name, model.spec.digest)
    return settings


def read_test_subset(settings: MeasurementSettings, normalised_as: DataSpec | None = None) -> Subset:
    """Load the test part that ``settings`` name; all ranks must call it.

    Args:
        settings: Data set and batch size.
        normalised_as: Description whose mean and deviation replace the data set's own.
    """
    dataset = read_dataset(settings.data)
    return full_test_subset(dataset, settings.training.batch_size, settings.data.workers, normalised_as)


def require_same_data(uri: str, own: DataSpec, found: DataSpec) -> None:
    """Refuse images other than those a version was grown on.

    Raises:
        IntegrityError: If their size or the digests of their contents differ.
    """
    if found.name == own.name and found.input_shape != own.input_shape:
        sizes = [f"{height}×{width}" for _, height, width in (own.input_shape, found.input_shape)]
        raise IntegrityError(
            f"{uri} was grown on images of {sizes[0]} pixels, but those of '{found.name}' here have"
            f" {sizes[1]}; leave data.image_size out, or give the right ones with --set data.root=FOLDER."
        )
    if found.digest != own.digest:
        raise IntegrityError(
            f"{uri} was grown on data with the digest {own.digest[:12]}…, but those of '{found.name}' here"
            f" have {found.digest[:12]}…; give the right ones with --set data.root=FOLDER."
        )


def pull_network(version: Version, data: DataSpec) -> nn.Module:
    """Load a version's network on all ranks, converted to the normalisation of ``data``.

    Raises:
        NotFoundError: If the store does not hold the version.
        IntegrityError: If its weights were altered, or its classes or input shape are not those of ``data``.
    """
    model = on_main_process(lambda: load_version(version))
    return fit_to_data(model.network, model.spec, data, version.uri)


def score_logits(
    logits: Tensor, labels: Tensor, top_k: int, superclasses: Tensor | None = None
) -> dict[str, float]:
    """Return the metrics of logits that are computed already.

    Args:
        logits: Logits, shape (N, C).
        labels: Classes, shape (N,).
        top_k: K of top score difference and secondary mass.
        superclasses: Superclass of each class, shape (C,).

    Returns:
        The metrics of ``classification_metrics``, by name.
    """
    metrics = classification_metrics(logits.shape[1], top_k, torch.device("cpu"), superclasses)
    evaluator = Engine(lambda _engine, batch: batch)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    evaluator.run([{"logits": logits, "labels": labels}])
    return {name: float(evaluator.state.metrics[name]) for name in metrics}
