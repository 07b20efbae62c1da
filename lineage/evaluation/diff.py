"""Two registered versions side by side: settings, metrics, predictions and features."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from lineage.evaluation.data_index import read_recipe
from lineage.evaluation.evaluate import (
    BATCH_SETTINGS,
    read_measurement_settings,
    read_test_subset,
    require_same_data,
)
from lineage.evaluation.features import extract_features
from lineage.evaluation.similarity import agreement, linear_cka
from lineage.models.ensemble import fit_to_data
from lineage.models.networks import has_features
from lineage.recipe import Overrides, flatten, override_texts
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.flavor import load_version
from lineage.registry.store.artifacts import LoadedModel
from lineage.training.devices import accelerate_session, make_accelerator, on_main_process
from lineage.training.measurement import Subset, measure


@dataclass(frozen=True)
class Difference:
    """Two versions side by side.

    Attributes:
        first: URI of the first version.
        second: URI of the second version.
        recipe: Recipe keys whose values differ, with both values; None where a recipe lacks the key.
        code: Code of other packages that made either version, by kind of builder, where it differs.
        metrics: Metrics that either version has, with both values; None where a version lacks the metric.
        agreement: Share of test images that both versions put into the same class.
        cka: Linear centred kernel alignment of both networks' features on the test images; None if either
            network has no features, as an ensemble or an exported program without a final linear layer.
    """

    first: str
    second: str
    recipe: dict[str, tuple[Any, Any]]
    code: dict[str, tuple[str | None, str | None]]
    metrics: dict[str, tuple[float | None, float | None]]
    agreement: float
    cka: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        return asdict(self)


@accelerate_session()
def diff(first: str, second: str, overrides: Overrides = ()) -> Difference:
    """Compare two versions: recipes, recorded metrics, predictions and features on the first one's test set.

    Args:
        first: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        second: URI of the other version, which may belong to another registered model.
        overrides: Values by key, or texts ``section.key=value`` that change where and how the images are
            read, such as ``data.root=FOLDER``; other settings are refused.

    Returns:
        The settings and metrics that differ, the agreement of predictions and the likeness of features.

    Raises:
        UsageError: If an override has no effect, or the first version was adopted for no data set and the
            overrides name none.
        NotFoundError: If a version or the images are not there.
        IntegrityError: If the versions differ in classes or input, or the images are not those that the first
            one was grown on.

    Examples:
        >>> found = lineage.diff("models:/digits/1", "models:/digits/2")
        >>> found.agreement, found.cka
        (0.9444, 0.8713)
    """
    accelerator = make_accelerator()
    versions = on_main_process(lambda: [find_version(uri) for uri in (first, second)])
    models = on_main_process(lambda: [load_version(version) for version in versions])
    settings = read_measurement_settings(
        versions[0].uri, models[0], override_texts(overrides), BATCH_SETTINGS
    )
    subset = read_test_subset(settings)
    require_same_data(versions[0].uri, models[0].spec, subset.spec)
    pairs = list(zip(versions, models, strict=True))
    logits = [_logits(accelerator, *pair, subset) for pair in pairs]
    cka = None
    if all(has_features(model.network) for model in models):
        cka = linear_cka(*(_features(accelerator, *pair, subset) for pair in pairs))
    return Difference(
        versions[0].uri,
        versions[1].uri,
        _changed(*(_settings(version, model) for version, model in pairs)),
        _changed(*(_describe_code(version) for version in versions)),
        _side_by_side(versions[0].metrics, versions[1].metrics),
        agreement(*logits),
        cka,
    )


def _settings(version: Version, model: LoadedModel) -> dict[str, Any]:
    """Return what a version's recipe says of its own generation."""
    if not model.recipe:
        return {}
    return flatten(read_recipe(model.recipe, model.spec).for_generation(version.generation))


def _logits(accelerator: Accelerator, version: Version, model: LoadedModel, subset: Subset) -> Tensor:
    network = fit_to_data(model.network, model.spec, subset.spec, version.uri)
    return measure(accelerator, network.to(accelerator.device), subset, keep_logits=True).logits


def _features(accelerator: Accelerator, version: Version, model: LoadedModel, subset: Subset) -> Tensor:
    own = replace(subset, spec=model.spec)
    return extract_features(accelerator, model.network, own, version.uri)


def _describe_code(version: Version) -> dict[str, str]:
    """Return distribution, version and digest of the code behind each builder of another package."""
    return {
        kind: f"{code['distribution']} {code['version']}, source {code['sha256'][:12]}…"
        for kind, code in version.code.items()
    }


def _changed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (first.get(key), second.get(key)) for key in first | second}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _side_by_side(
    first: dict[str, float], second: dict[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    return {name: (first.get(name), second.get(name)) for name in first | second}
