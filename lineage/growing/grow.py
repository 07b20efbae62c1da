"""Growing of a family from a recipe, or of a branch from a registered version."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from lineage.display.page_data import family_html
from lineage.display.progress import Reporter, default_reporter
from lineage.errors import UsageError
from lineage.evaluation.data import SplitData
from lineage.evaluation.data_index import require_named, stored_recipe
from lineage.growing.parallel import FailedSeedsError, SeedOutcome, grow_side_by_side
from lineage.growing.plan import read_split_data, require_family_data
from lineage.growing.succession import Lineage, Succession
from lineage.growing.teacher import load_teacher, version_of
from lineage.growing.worker_processes import require_one_process
from lineage.recipe import Overrides, Recipe, change_recipe, load_recipe, override, override_texts
from lineage.registry.family.family import Family, Version
from lineage.registry.family.lookup import read_family
from lineage.registry.store.artifacts import LoadedModel
from lineage.registry.store.connection import check_store
from lineage.registry.store.runs import keep_page
from lineage.training.attaching import Attach
from lineage.training.devices import accelerate_session, make_accelerator
from lineage.training.turns import on_main_process

_MOST_SEEDS = 1000
"""Largest number of seeds that one call grows."""

_MOST_VERSIONS_DRAWN = 1000
"""Largest family whose whole tree is logged with every run that adds to it."""


@accelerate_session()
def grow(  # noqa: PLR0913 - one argument for each option of the command
    recipe: str | None = None,
    *,
    teacher: str | None = None,
    name: str | None = None,
    generations: int | None = None,
    seeds: Iterable[int] | None = None,
    overrides: Overrides = (),
    fresh: bool = False,
    new_data: bool = False,
    parallel: int = 1,
    reporter: Reporter | None = None,
    attach: Attach | None = None,
) -> list[Lineage]:
    """Grow a family from a recipe, or students of a registered version; what is registered is not retrained.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file; with a teacher, its own recipe by default.
        teacher: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, whose students are grown; without one, a
            patriarch comes first.
        name: Registered model, in place of the teacher's or the recipe's.
        generations: Number of students, in place of the recipe's; with a teacher, one by default.
        seeds: Seeds of several successions in one registered model, in place of the recipe's one seed.
        overrides: Values by key, or texts ``section.key=value`` that change settings of the recipe, as after
            ``--set``.
        fresh: Whether to drop unfinished local state first.
        new_data: Whether the contents of the data may differ from those that the family was grown on.
        parallel: Number of seeds that grow at the same time, each in a process of its own that gets its
            share of cores and GPUs; images in memory are there once for all of them, besides this one's.
            What a program has added to lineage's dicts is not known there, only what entry points add.
        attach: Callback ``(engine, part, generation)`` that adds Ignite's handlers and metrics: once to the
            engine that trains, where ``part`` is ``"training"``, and before each validation to one that
            measures, where it is ``"validation"``. It may change the training, and no key can tell: every
            call trains generations of its own. Not together with ``parallel``.
        reporter: Progress callbacks; by default lines in a notebook, and none elsewhere. Processes of their
            own report lines and bars alone.

    Returns:
        One lineage a seed, without the teacher.

    Raises:
        UsageError: If the recipe cannot hold, the hardware lacks what it asks for, or it would validate
            students on images that trained their teacher; nothing is created then.
        NotFoundError: If the recipe, the teacher or the images are not there.
        IntegrityError: If the teacher's classes, input or images are not those of the data, it descends
            from itself, or the contents of the data have changed since the family was grown on them.
        RegistryError: If the store cannot be reached or written.
        TrainingError: If training fails; run again, it continues from the last epoch.
        FailedSeedsError: If some of several seeds in parallel failed; the others are registered.

    Examples:
        >>> (grown,) = lineage.grow("digits", generations=2, overrides={"training.epochs": 3})
        >>> [version.uri for version in grown.versions]
        ['models:/digits/1', 'models:/digits/2', 'models:/digits/3']
        >>> lineage.grow(teacher="models:/digits@best", seeds=[1])  # a branch from the best generation
    """
    if attach is not None and parallel > 1:
        raise UsageError(
            f"attach must be left out where seeds grow in processes of their own, but parallel is {parallel};"
            " leave out one of them, or name an installed package's handler in training.handlers."
        )
    setup = prepare(
        recipe, teacher, changes_of(name, generations, override_texts(overrides)), seeds, parallel
    )
    if not new_data:
        remedy = "give the new family a --name, or allow it in this one with --new-data"
        on_main_process(lambda: require_family_data(setup.recipes[0], setup.split_data, remedy))
    reporter = reporter or default_reporter()
    if parallel > 1:
        outcomes = grow_side_by_side(
            setup.recipes, setup.split_data, setup.from_version, fresh, parallel, reporter
        )
    else:
        outcomes = [
            SeedOutcome(
                one.succession.seed,
                Succession(one, setup.split_data, reporter, fresh, setup.from_version, attach=attach).run(),
            )
            for one in setup.recipes
        ]
    grown = [outcome.lineage for outcome in outcomes if outcome.lineage is not None]
    new = [line.versions[-1] for line in grown if line.num_trained]
    if new:
        on_main_process(lambda: _log_family_page(max(new, key=lambda version: version.version)))
    if len(grown) < len(outcomes):
        raise FailedSeedsError(outcomes)
    return grown


@dataclass(frozen=True)
class Setup:
    """All that one call grows from, checked.

    Attributes:
        recipes: Resolved recipe of each succession.
        split_data: Data of all of them.
        from_version: Teacher of the first students; None for patriarchs.
    """

    recipes: list[Recipe]
    split_data: SplitData
    from_version: Version | None


def changes_of(name: str | None, generations: int | None, overrides: Sequence[str]) -> list[str]:
    """Return all changes of the recipe; the last one wins: overrides, then options of their own."""
    changes = [*overrides]
    if name is not None:
        changes.append(override("model.name", name))
    if generations is not None:
        changes.append(override("succession.generations", generations))
    return changes


def prepare(
    recipe: str | None,
    teacher: str | None,
    changes: list[str],
    seeds: Iterable[int] | None,
    parallel: int,
    creates_store: bool = True,
) -> Setup:
    """Read recipe, teacher and data, and check that they fit each other, the hardware and the store.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file; None for the teacher's.
        teacher: URI of the teacher of the first students; None for patriarchs.
        changes: Texts ``section.key=value`` that change the recipe.
        seeds: Seeds of several successions; None for the recipe's.
        parallel: Number of seeds that are to grow at the same time.
        creates_store: Whether a database that is missing is created.
    """
    first = None
    if teacher is not None:
        first = load_teacher(teacher)
        changes = [override("model.name", first.version.name), "succession.generations=1", *changes]
    base = _read_recipe(recipe, None if first is None else first.model, teacher, changes)
    if recipe is not None:  # a stored one describes the whole family
        base.require_reached((first.version.generation if first else 0) + base.succession.generations)
    recipes = [base] if seeds is None else _with_seeds(base, seeds)
    accelerator = make_accelerator(base.training.precision, sync_batchnorm=base.training.sync_batchnorm)
    require_one_process("--parallel", parallel, accelerator)
    _require_at_most_seeds(parallel, len(recipes))
    split_data = read_split_data(base)
    if creates_store:
        on_main_process(check_store)
    if first is not None:
        first.require_fits(base, split_data.dataset.spec)
    return Setup(recipes, split_data, version_of(first))


def _require_at_most_seeds(parallel: int, num_seeds: int) -> None:
    if not 1 <= parallel <= max(num_seeds, 1):
        raise UsageError(
            f"--parallel must be at least 1 and at most the number of seeds, {num_seeds}, but got {parallel};"
            " give more --seeds A..B, or change it."
        )


def _with_seeds(base: Recipe, seeds: Iterable[int]) -> list[Recipe]:
    """Return the recipe once for each seed."""
    chosen = list(islice(seeds, _MOST_SEEDS + 1))
    if not chosen:
        raise UsageError("Seeds must be at least one, but there are none; leave them out for the recipe's.")
    if len(chosen) > _MOST_SEEDS:
        raise UsageError(
            f"Seeds must be at most {_MOST_SEEDS:,} in one call, but are more; grow them in several."
        )
    return [change_recipe(base, [override("succession.seed", seed)]) for seed in chosen]


def _log_family_page(newest: Version) -> None:
    """Log the family's tree as a page of the newest generation's run; if it is large, its ancestors alone."""
    family = read_family(newest.name)
    if len(family) > _MOST_VERSIONS_DRAWN:
        line = sorted((*family.ancestors(newest), newest), key=lambda version: version.version)
        family = Family(family.name, tuple(version for version in line if version.name == family.name))
    keep_page(newest.run_id, family_html(family))


def _read_recipe(
    given: str | None, model: LoadedModel | None, teacher: str | None, changes: list[str]
) -> Recipe:
    """Return the recipe that was given, or else the one that is stored with the teacher, changed."""
    if given is not None:
        return load_recipe(given, changes)
    if model is None:
        raise UsageError("A recipe or a teacher must be given, but got neither; see 'lineage recipes ls'.")
    if not model.recipe:
        raise UsageError(f"{teacher} must be given a recipe for its students, since none is stored with it.")
    stored = stored_recipe(model.recipe, model.spec)
    changed = change_recipe(stored, changes)
    require_named(changed.data, stored.data.name, model.spec.digest)
    return changed
