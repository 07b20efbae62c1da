"""``grow``: a family from a recipe, or a branch from any registered version."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lineage.errors import UsageError
from lineage.evaluation.evaluate import require_same_data
from lineage.growing.plan import read_split_data
from lineage.growing.succession import Lineage, Succession
from lineage.models.ensemble import fit_to_data
from lineage.recipe import Recipe, change_recipe, load_recipe
from lineage.registry.family.family import Family, Version
from lineage.registry.family.lookup import find_version, read_family, require_no_circle
from lineage.registry.flavor import LoadedModel, load_member, load_version
from lineage.registry.store.connection import check_store
from lineage.registry.store.runs import keep_page
from lineage.report.page_data import family_html
from lineage.report.progress import Reporter, SilentReporter
from lineage.training.devices import accelerate_session, init_processes, make_accelerator, on_main_process

_DRAWN = 1000
"""Versions of a family whose whole tree is kept with every run that adds to it."""


@accelerate_session()
def grow(
    recipe: str | None = None,
    *,
    teacher: str | None = None,
    name: str | None = None,
    generations: int | None = None,
    seeds: Iterable[int] | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> list[Lineage]:
    """Grow a family, or continue it: what the registry holds is not trained again.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file. With a teacher, its own recipe by default.
        teacher: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, whose students are grown; a patriarch is
            trained first where there is none.
        name: Of the registered model, in place of the teacher's or the recipe's.
        generations: Number of students, in place of the recipe's; with a teacher, one by default.
        seeds: One succession each, all in one registered model, in place of the recipe's one seed.
        overrides: ``section.key=value``, as after ``--set``.
        fresh: Whether to drop unfinished local state first.
        reporter: Is told of the progress; nobody is by default.

    Returns:
        One lineage a seed, without the teacher.

    Raises:
        UsageError: If the recipe cannot hold, or would validate students on images that trained their
            teacher; nothing is created then.
        NotFoundError: If the recipe, the teacher or the images are not there.
        IntegrityError: If the teacher's classes, input or images are not those of the data, or it descends
            from itself.
        RegistryError: If the store cannot be reached or written.
        TrainingError: If training fails; run again, it continues from the last epoch.
    """
    from_version, model = (None, None)
    sources: list[_Source] = []
    changes: list[str] = []  # of two the later wins: what is usual, what is set, what has its own option
    if teacher is not None:
        init_processes()
        from_version, model, sources = on_main_process(lambda: _find(teacher))
        changes += [f"model.name={json.dumps(from_version.name)}", "succession.generations=1"]
    changes += overrides
    if name is not None:
        changes.append(f"model.name={json.dumps(name)}")
    if generations is not None:
        changes.append(f"succession.generations={generations}")
    base = _recipe(recipe, model, teacher, changes)
    recipes = (
        [base] if seeds is None else [change_recipe(base, [f"succession.seed={seed}"]) for seed in seeds]
    )
    make_accelerator(base.training.precision, sync_batchnorm=base.training.sync_batchnorm)
    on_main_process(check_store)
    split_data = read_split_data(base)
    if from_version is not None and model is not None:
        spec = split_data.dataset.spec
        fit_to_data(model.network, model.spec, spec, from_version.uri)
        if spec.name == model.spec.name:
            require_same_data(from_version.uri, model.spec, spec)
        for source in sources:
            if source.digest == spec.digest:
                _require_same_split(source, base)
    grown = [
        Succession(one, split_data, reporter or SilentReporter(), fresh, from_version).run()
        for one in recipes
    ]
    new = [line.versions[-1] for line in grown if line.num_trained]
    if new:
        on_main_process(lambda: _keep_drawing(max(new, key=lambda version: version.version)))
    return grown


def _keep_drawing(newest: Version) -> None:
    """The family's tree as a page of the newest generation's run; of a large family, its ancestors alone."""
    family = read_family(newest.name)
    if len(family) > _DRAWN:
        line = sorted((*family.ancestors(newest), newest), key=lambda version: version.version)
        family = Family(family.name, tuple(version for version in line if version.name == family.name))
    keep_page(newest.run_id, family_html(family))


@dataclass(frozen=True)
class _Source:
    """What one network of a teacher was trained on.

    Attributes:
        uri: Of the network's version.
        digest: Of the images.
        recipe: That made it, as JSON; "" for one that was adopted.
    """

    uri: str
    digest: str
    recipe: str


def _find(uri: str) -> tuple[Version, LoadedModel, list[_Source]]:
    version = find_version(uri)
    require_no_circle(version)
    model = load_version(version)
    return version, model, _sources(version.uri, model)


def _sources(uri: str, model: LoadedModel) -> list[_Source]:
    """Of the model itself; of an ensemble, those of its members."""
    if not model.members:
        return [_Source(uri, model.spec.digest, model.recipe)]
    models = model.copies or [load_member(member) for member in model.members]
    pairs = zip(model.members, models, strict=True)
    return [source for member, one in pairs for source in _sources(f"models:/{member.id}", one)]


def _recipe(given: str | None, model: LoadedModel | None, teacher: str | None, changes: list[str]) -> Recipe:
    """The recipe that was given, or else the one that is stored with the teacher."""
    if given is not None:
        return load_recipe(given, changes)
    if model is None:
        raise UsageError("A recipe or a teacher must be given, but got neither; see 'lineage recipes ls'.")
    if not model.recipe:
        raise UsageError(f"{teacher} must be given a recipe for its students, since none is stored with it.")
    return change_recipe(Recipe.from_json(model.recipe), changes)


def _require_same_split(source: _Source, recipe: Recipe) -> None:
    """Refuse to validate students on images that trained their teacher.

    The images held out depend on ``data.seed`` and ``data.validation`` alone: a student may train on fewer,
    or hold out none. Since every student is asked this, no ancestor has seen what it validates on.

    Raises:
        UsageError: If the recipe holds out other images than the teacher's.
    """
    if not source.recipe or recipe.data.validation == 0:
        return
    teachers, own = Recipe.from_json(source.recipe).data, recipe.data
    if (teachers.seed, teachers.validation) != (own.seed, own.validation):
        raise UsageError(
            f"data.seed and data.validation must be those of {source.uri}, {teachers.seed} and"
            f" {teachers.validation}, or students are validated on images that trained their teacher, but are"
            f" {own.seed} and {own.validation}; set them so, or data.validation=0."
        )
