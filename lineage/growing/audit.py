"""Audit of a line of generations: what they tell of the images that trained their patriarch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import numpy as np
from torch import Tensor, nn

from lineage.data.datasets import DataSet
from lineage.display.progress import Reporter, SilentReporter
from lineage.errors import NotFoundError, UsageError
from lineage.evaluation.audit_images import AuditImages, choose_images
from lineage.evaluation.data import read_dataset, read_split, split_dataset
from lineage.evaluation.data_index import require_named, stored_recipe
from lineage.evaluation.evaluate import pull_network, require_same_data
from lineage.evaluation.membership import Floats, ShadowScores, audit_scores
from lineage.growing.shadows import ImitatedGeneration, Shadow, grow_shadows, require_pairs
from lineage.models.ensemble import fit_to_data
from lineage.processes import is_main_process
from lineage.recipe import Overrides, Recipe, change_recipe, override_texts, require_effect
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import ancestors_of, find_version, read_ancestors
from lineage.registry.flavor import LoadedModel, load_version
from lineage.registry.store.audits import Audit, log_audits
from lineage.training.devices import accelerate_session, init_processes, make_accelerator
from lineage.training.turns import on_main_process

_IMAGE_SETTINGS = ("data.name", "data.root", "data.download", "data.workers")
_GENERATION = "generation"


@accelerate_session()
def audit(
    uri: str, *, shadows: int = 0, overrides: Overrides = (), reporter: Reporter | None = None
) -> list[Audit]:
    """Measure how well a version and its ancestors tell which images trained their patriarch, and log it.

    Images that trained the patriarch and as many that trained no generation of the line are told apart by how
    sure each generation is of their labels. With shadows, LiRA compares each score with those of networks
    that did not see the image. These are successions of a patriarch and one student on halves of the images,
    in the family ``NAME-shadows``; those that are registered are not trained again.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` of a generation.
        shadows: Number of shadow successions, even and at least 4; with 0, there is a lower bound alone.
        overrides: Values by key, or texts ``data.key=value`` that change where and how the images are read,
            such as ``data.root=FOLDER``; other settings are refused.
        reporter: Progress callbacks; none by default.

    Returns:
        One result a generation, the oldest first.

    Raises:
        UsageError: If an argument cannot hold, or nobody knows which images trained the version, since it was
            adopted or is an ensemble.
        NotFoundError: If a version or the images are not there, or, with shadows, the oldest teacher is not.
        IntegrityError: If the images, or weights, are not those that were registered, or a later generation
            has other classes or another input than the patriarch.
        TrainingError: If the training of a shadow fails; run again, it continues from the last epoch.
        RegistryError: If the store cannot be reached or written.

    Examples:
        >>> results = lineage.audit("models:/cifar100@best", shadows=16)
        >>> [result.rates["lira"]["auc"] for result in results]
    """
    require_pairs(shadows)
    overrides = override_texts(overrides)
    require_effect(overrides, _IMAGE_SETTINGS, "an audit")
    reporter = reporter if reporter is not None and is_main_process() else SilentReporter()
    init_processes()
    line = on_main_process(lambda: _read_line(uri, reporter))
    patriarch = line.generations[0]
    recipe = patriarch.readable_recipe(overrides)
    dataset = read_dataset(recipe.data)
    require_same_data(patriarch.version.uri, patriarch.model.spec, dataset.spec)
    images = choose_images(dataset, *line.rows(dataset))
    score = partial(_score, images, recipe)
    own = [_score_generation(generation, images, score, reporter) for generation in line.generations]
    of_shadows = []
    if shadows:
        line.require_teacher()
        imitated = [_imitate(generation, dataset, overrides) for generation in line.generations[:2]]
        grow = partial(grow_shadows, imitated, shadows, reporter, line.teacher)
        of_shadows = _score_shadows(grow, images, score)
    results = [
        Audit(
            version=generation.version,
            patriarch=patriarch.version,
            num_members=images.num_members,
            num_others=len(images.members) - images.num_members,
            num_shadows=shadows,
            rates=audit_scores(scores, images.members, of_shadows[min(place, 1)] if of_shadows else None),
        )
        for place, (generation, scores) in enumerate(zip(line.generations, own, strict=True))
    ]
    on_main_process(lambda: log_audits(results))
    return results


@dataclass(frozen=True, eq=False)
class _Generation:
    """A registered generation with its network and its recipe."""

    version: Version
    model: LoadedModel

    def readable_recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """Return its recipe, with images that are read as this user says."""
        stored = stored_recipe(self.model.recipe, self.model.spec)
        recipe = change_recipe(stored, overrides)
        require_named(recipe.data, stored.data.name, self.model.spec.digest)
        return recipe

    def rows(self, dataset: DataSet) -> Tensor | None:
        """Return the rows of the training part that it was trained on; None if on other data."""
        if self.model.spec.digest != dataset.spec.digest:
            return None
        return split_dataset(dataset, Recipe.from_json(self.model.recipe).data).train


@dataclass(frozen=True, eq=False)
class _Line:
    """An audited version and all that it descends from.

    Attributes:
        generations: Chain of teachers, the oldest first, to the audited version.
        others: Further ancestors, such as the members of an ensemble that taught the oldest.
        teacher: Teacher of the oldest, which is no generation; None for a patriarch, or if it was removed.
    """

    generations: tuple[_Generation, ...]
    others: tuple[_Generation, ...]
    teacher: Version | None

    def require_teacher(self) -> None:
        """Refuse to imitate the oldest generation without the teacher that it had.

        Raises:
            NotFoundError: If that was removed.
        """
        oldest = self.generations[0].version
        if oldest.teacher is not None and self.teacher is None:
            raise NotFoundError(
                f"The teacher of {oldest.uri}, {oldest.teacher}, must be there for shadows that it teaches as"
                " well, but was removed; leave out --shadows."
            )

    def rows(self, dataset: DataSet) -> tuple[Tensor, list[Tensor]]:
        """Return the rows that trained the oldest generation, and those that trained any other."""
        oldest, *rest = (one.rows(dataset) for one in (*self.generations, *self.others))
        assert oldest is not None
        return oldest, [rows for rows in rest if rows is not None]


def _read_line(uri: str, reporter: Reporter) -> _Line:
    """Load a version and its ancestors.

    Raises:
        UsageError: If the version is no generation, so that nobody knows which images trained it.
    """
    version = find_version(uri)
    if version.kind != _GENERATION:
        found = "is an ensemble" if version.members else "was adopted"
        raise UsageError(
            f"{uri} must be a generation to be audited, since it is known which images trained one, but it"
            f" {found}; name {'a member' if version.members else 'another'}."
        )
    chain = (version, *read_ancestors(version))
    generations = list(takewhile(lambda one: one.kind == _GENERATION, chain))[::-1]
    oldest, teacher = generations[0], next((one for one in chain if one.kind != _GENERATION), None)
    if oldest.teacher is not None:
        reporter.notice(
            f"{oldest.uri} is the oldest generation whose images are known: its teacher {oldest.teacher} was"
            " adopted, combined or removed, and may have been trained on any of them"
        )
    others = [relative.version for relative in ancestors_of(version)]
    return _Line(
        tuple(_Generation(one, load_version(one)) for one in generations),
        tuple(
            _Generation(one, load_version(one))
            for one in others
            if one.kind == _GENERATION and one not in generations
        ),
        teacher,
    )


def _imitate(generation: _Generation, dataset: DataSet, overrides: Sequence[str]) -> ImitatedGeneration:
    """Return a generation as shadows imitate it; only one on the patriarch's data has its images at hand."""
    if generation.model.spec.digest == dataset.spec.digest:
        recipe = generation.readable_recipe(overrides)
        return ImitatedGeneration(generation.version, recipe, split_dataset(dataset, recipe.data))
    recipe = generation.readable_recipe()
    split_data = read_split(recipe.data)
    require_same_data(generation.version.uri, generation.model.spec, split_data.dataset.spec)
    return ImitatedGeneration(generation.version, recipe, split_data)


def _score_generation(
    generation: _Generation,
    images: AuditImages,
    score: Callable[[nn.Module, str], Floats],
    reporter: Reporter,
) -> Floats:
    """Return the scores by one generation, which leaves the device afterwards: a line may be long."""
    model, who = generation.model, generation.version.uri
    reporter.notice(f"{who}: scores of {len(images.members):,} images")
    scores = score(fit_to_data(model.network, model.spec, images.dataset.spec, who), who)
    model.network.cpu()
    return scores


def _score(images: AuditImages, recipe: Recipe, network: nn.Module, who: str) -> Floats:
    return images.score(make_accelerator(), network, who, recipe.training.batch_size, recipe.data.workers)


def _score_shadows(
    grow: Callable[[], Iterator[Shadow]], images: AuditImages, score: Callable[[nn.Module, str], Floats]
) -> list[ShadowScores]:
    """Grow shadows, and return their scores for each generation that they imitate, the oldest first."""
    scores: list[list[Floats]] = []
    trained = []
    for shadow in grow():
        trained.append(images.among(shadow.rows))
        networks = ((pull_network(one, images.dataset.spec), one.uri) for one in shadow.versions)
        scores.append([score(network, who) for network, who in networks])
    return [ShadowScores(np.stack(found), np.stack(trained)) for found in zip(*scores, strict=True)]
