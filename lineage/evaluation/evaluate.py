"""A generation pulled from the registry, with all that the registry knows of how it came about."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lineage.data.datasets import DataSpec, load_dataset
from lineage.errors import IntegrityError, RecipeError, UsageError
from lineage.recipe import Recipe, change_recipe
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version
from lineage.registry.flavor import LoadedModel, load_version
from lineage.training.devices import accelerate_session, in_turns, make_accelerator, on_main_process
from lineage.training.measurement import Subset, measure

_MOST_CLASSES_RANKED = 5


def load(uri: str) -> LoadedModel:
    """The network behind ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, ready for use.

    Raises:
        UsageError: If ``uri`` has another form.
        NotFoundError: If the store does not hold it.
        IntegrityError: If its weights are not those that were registered.
    """
    return load_version(find_version(uri))


@dataclass(frozen=True)
class Evaluation:
    """A version measured again on its test set.

    Attributes:
        version: What was measured.
        metrics: As measured now, by name.
        recorded: As they were when it was registered; the same names.
    """

    version: Version
    metrics: dict[str, float]
    recorded: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {"uri": self.version.uri, "metrics": self.metrics, "recorded": self.recorded}


@accelerate_session()
def evaluate(uri: str, overrides: Sequence[str] = ()) -> Evaluation:
    """Measure a version again on the test set that it was measured on, or adopted for.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        overrides: ``section.key=value``, as after ``--set``: where the images lie on this machine, say.

    Raises:
        UsageError: If the version was adopted and does not name its images, nor do the overrides.
        IntegrityError: If the images are not those that the version was measured on.
        NotFoundError: If the version or the images are not there.
    """
    accelerator = make_accelerator()
    version = on_main_process(lambda: find_version(uri))
    model = on_main_process(lambda: load_version(version))
    recipe = recipe_of(uri, model, overrides)
    part = read_test_part(recipe)
    require_same_data(uri, model.spec, part.spec)
    wanted = replace(part.spec, mean=model.spec.mean, std=model.spec.std)
    network = model.network.to(accelerator.device)
    measured = measure(accelerator, network, replace(part, spec=wanted), recipe.patriarch.top_k)
    metrics = {f"test_{name}": value for name, value in measured.metrics.items()}
    return Evaluation(
        version, metrics, {name: version.metrics[name] for name in metrics if name in version.metrics}
    )


def recipe_of(uri: str, model: LoadedModel, overrides: Sequence[str]) -> Recipe:
    """The recipe that a version was grown from, changed; of an adopted one, a recipe that names its images.

    Args:
        uri: Of the version, for errors.
        model: The version's own.
        overrides: ``section.key=value``, as after ``--set``.

    Raises:
        UsageError: If the version was adopted for no data set, and the overrides name none.
    """
    if model.recipe:
        return change_recipe(Recipe.from_json(model.recipe), overrides)
    name = model.spec.name
    chosen = any(override.partition("=")[0].strip() == "data.name" for override in overrides)
    base = {
        "model": {"name": "adopted"},
        "data": {"name": "digits" if chosen else name, "image_size": model.spec.input_shape[-1]},
        "network": {"name": "resnet8"},
        "patriarch": {
            "objective": "strict",
            "top_k": min(_MOST_CLASSES_RANKED, model.spec.num_classes),
        },
        "student": {"label_weight": 1.0},
        "training": {"epochs": 0},
    }
    try:
        minimal = Recipe.from_dict(base)
    except RecipeError as error:
        raise UsageError(
            f"{uri} must be given its images, since it was adopted with '{name}', which names none; add"
            " --set data.name=NAME."
        ) from error
    return change_recipe(minimal, overrides)


def require_same_data(uri: str, own: DataSpec, found: DataSpec) -> None:
    """Refuse images that are not those a version was grown on.

    Raises:
        IntegrityError: If the digests of the contents differ.
    """
    if found.digest != own.digest:
        raise IntegrityError(
            f"{uri} was grown on data with the digest {own.digest[:12]}…, but those of '{found.name}' here"
            f" have {found.digest[:12]}…; give the right ones with --set data.root=FOLDER."
        )


def read_test_part(recipe: Recipe) -> Subset:
    """The whole test part of the recipe's data, in the batches that it was measured in."""
    data = recipe.data
    dataset = in_turns(lambda: load_dataset(data.name, data.root, data.download, data.image_size))
    rows = torch.arange(len(dataset.test))
    return Subset(dataset.test, rows, dataset.spec, recipe.training.batch_size, data.workers)
