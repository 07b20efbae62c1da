"""``lineage grow --dry-run``: what a call of ``grow`` would train, and what it would find."""

import statistics
from collections.abc import Iterable, Mapping

from lineage.data.images import DataSpec
from lineage.display.forecast import ExpectedGeneration, Forecast
from lineage.evaluation.data import SplitData
from lineage.growing.cache_key import GenerationSettings
from lineage.growing.grow import changes_of, prepare
from lineage.models.networks import build_network, options_without_weights
from lineage.recipe import NetworkSettings, Overrides, Recipe, override_texts
from lineage.registry.family.family import Family, Version
from lineage.registry.family.lookup import read_family
from lineage.registry.store.connection import is_missing
from lineage.training.devices import accelerate_session, on_main_process


@accelerate_session()
def forecast(
    recipe: str | None = None,
    *,
    teacher: str | None = None,
    name: str | None = None,
    generations: int | None = None,
    seeds: Iterable[int] | None = None,
    overrides: Overrides = (),
) -> Forecast:
    """Tell what ``grow`` with the same arguments would train and what it would find, and train nothing.

    The data are read, since keys hold their contents. A store that does not exist yet is not created. The
    time of a generation is the mean of like ones of its recipe in the family, whatever machine trained them.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file; with a teacher, its own recipe by default.
        teacher: URI of the version whose students would be grown.
        name: Registered model, in place of the teacher's or the recipe's.
        generations: Number of students, in place of the recipe's.
        seeds: Seeds of several successions, in place of the recipe's one seed.
        overrides: Values by key, or texts ``section.key=value``.

    Raises:
        UsageError: If ``grow`` would refuse the arguments.
        NotFoundError: If the recipe, the teacher or the images are not there.
        IntegrityError: If the teacher does not fit the data.
        RegistryError: If the store does not answer.

    Examples:
        >>> [expected.generation for expected in lineage.forecast("digits").to_train]
        [0, 1, 2]
    """
    changes = changes_of(name, generations, override_texts(overrides))
    setup = prepare(recipe, teacher, changes, seeds, 1, creates_store=False)
    base, split_data = setup.recipes[0], setup.split_data
    name = base.model.name
    family = on_main_process(lambda: Family(name) if is_missing() else read_family(name, missing_ok=True))
    spec = split_data.dataset.spec
    times = _mean_seconds(family, base)
    generations_of_all = tuple(
        expected
        for one in setup.recipes
        for expected in _expected(one, split_data, setup.from_version, family, times)
    )
    numbers = dict.fromkeys(expected.generation for expected in generations_of_all)
    networks = [base.for_generation(number).network for number in numbers]
    return Forecast(
        name=name,
        data=spec.name,
        num_train=len(split_data.train),
        num_validation=len(split_data.validation),
        num_test=len(split_data.dataset.test),
        num_classes=spec.num_classes,
        networks={str(network): _num_parameters(network, spec) for network in networks},
        generations=generations_of_all,
    )


def _num_parameters(settings: NetworkSettings, spec: DataSpec) -> int:
    options = options_without_weights(settings.name, settings.builder_options)
    network = build_network(settings.name, spec.num_classes, spec.input_shape, options)
    return sum(parameter.numel() for parameter in network.parameters())


def _expected(
    recipe: Recipe,
    split_data: SplitData,
    from_version: Version | None,
    family: Family,
    times: Mapping[int, float],
) -> Iterable[ExpectedGeneration]:
    """Yield the generations of one succession."""
    first = 0 if from_version is None else from_version.generation + 1
    teacher_key = None if from_version is None else from_version.key
    for generation in range(first, first + recipe.succession.generations + (from_version is None)):
        settings = GenerationSettings(recipe, split_data, generation, teacher_key)
        key = settings.key
        version = family.with_key(key)
        seconds = times.get(_like(recipe, generation)) if version is None else None
        network = str(settings.recipe.network)
        yield ExpectedGeneration(recipe.succession.seed, generation, network, key, version, seconds)
        teacher_key = key


def _mean_seconds(family: Family, recipe: Recipe) -> dict[int, float]:
    """Return the mean time of a recipe's generations in a family, by the first that is like them."""
    found: dict[int, list[float]] = {}
    for version in family:
        if version.recipe_digest == recipe.digest and "seconds" in version.metrics:
            found.setdefault(_like(recipe, version.generation), []).append(version.metrics["seconds"])
    return {generation: statistics.fmean(times) for generation, times in found.items()}


def _like(recipe: Recipe, generation: int) -> int:
    """Return a generation that is trained alike: itself if it has settings of its own, or the first."""
    return generation if generation in recipe.distinct_generations else min(generation, 1)
