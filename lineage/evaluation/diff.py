"""What two registered versions have in common, and what not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from lineage.evaluation.evaluate import read_test_part, recipe_of, require_same_data
from lineage.evaluation.features import extract_features
from lineage.evaluation.similarity import agreement, linear_cka
from lineage.models.ensemble import fit_to_data
from lineage.models.networks import has_features
from lineage.recipe import Recipe, flatten
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.flavor import LoadedModel, load_version
from lineage.training.devices import accelerate_session, make_accelerator, on_main_process
from lineage.training.measurement import Subset, measure


@dataclass(frozen=True)
class Difference:
    """Two versions side by side.

    Attributes:
        first: URI of the one.
        second: URI of the other.
        recipe: Keys whose values differ, with both values; None where a recipe lacks the key.
        metrics: Metrics that either has, with both values.
        agreement: Share of test images that both put into the same class.
        cka: Linear centred kernel alignment of their features on the test images; None where either has none,
            being an ensemble or an exported program that does not end in a linear layer.
    """

    first: str
    second: str
    recipe: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[float | None, float | None]]
    agreement: float
    cka: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return asdict(self)


@accelerate_session()
def diff(first: str, second: str, overrides: Sequence[str] = ()) -> Difference:
    """Compare two versions: recipes, recorded metrics, predictions and features on the first one's test set.

    Args:
        first: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        second: Likewise; may be of another registered model.
        overrides: ``section.key=value``, as after ``--set``: where the images lie on this machine, say.

    Raises:
        NotFoundError: If a version or the images are not there.
        IntegrityError: If classes, input or images are not the same.
    """
    accelerator = make_accelerator()
    versions = on_main_process(lambda: [find_version(uri) for uri in (first, second)])
    models = on_main_process(lambda: [load_version(version) for version in versions])
    recipe = recipe_of(versions[0].uri, models[0], overrides)
    part = read_test_part(recipe)
    require_same_data(versions[0].uri, models[0].spec, part.spec)
    pairs = list(zip(versions, models, strict=True))
    logits = [_logits(accelerator, *pair, part, recipe.patriarch.top_k) for pair in pairs]
    cka = None
    if all(has_features(model.network) for model in models):
        cka = linear_cka(*(_features(accelerator, *pair, part) for pair in pairs))
    return Difference(
        versions[0].uri,
        versions[1].uri,
        _changed(*(flatten(Recipe.from_json(model.recipe)) if model.recipe else {} for model in models)),
        _side_by_side(versions[0].metrics, versions[1].metrics),
        agreement(*logits),
        cka,
    )


def _logits(
    accelerator: Accelerator, version: Version, model: LoadedModel, part: Subset, top_k: int
) -> Tensor:
    network = fit_to_data(model.network, model.spec, part.spec, version.uri)
    return measure(accelerator, network.to(accelerator.device), part, top_k, keep_logits=True).logits


def _features(accelerator: Accelerator, version: Version, model: LoadedModel, part: Subset) -> Tensor:
    own = Subset(part.images, part.indices, model.spec, part.batch_size, part.workers)
    return extract_features(accelerator, model.network, own, version.uri)


def _changed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (first.get(key), second.get(key)) for key in first | second}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _side_by_side(
    first: dict[str, float], second: dict[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    return {name: (first.get(name), second.get(name)) for name in first | second}
