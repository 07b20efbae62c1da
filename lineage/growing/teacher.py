"""The registered version that teaches the first students: loaded once, and checked against their recipe."""

import copy
from dataclasses import dataclass

from torch import nn

from lineage.data.images import DataSpec
from lineage.errors import UsageError
from lineage.evaluation.evaluate import pull_network, require_same_data
from lineage.growing.student_loss import teacher_stages
from lineage.models.ensemble import fit_to_data
from lineage.recipe import Recipe
from lineage.registry.family.family import Version
from lineage.registry.family.lookup import find_version, require_no_circle
from lineage.registry.flavor import load_member, load_version
from lineage.registry.store.artifacts import LoadedModel
from lineage.training.devices import init_processes
from lineage.training.turns import on_main_process


@dataclass(frozen=True)
class Source:
    """The data that one network of a teacher was trained on.

    Attributes:
        uri: URI of the network's version.
        digest: Digest of the images.
        recipe: Recipe that it was grown from, as JSON; empty if it was adopted.
    """

    uri: str
    digest: str
    recipe: str


@dataclass(frozen=True, eq=False)
class FirstTeacher:
    """The teacher of the first students, in memory.

    Attributes:
        version: Its version; an ensemble may be one.
        model: Its network.
        sources: What each of its networks was trained on.
    """

    version: Version
    model: LoadedModel
    sources: tuple[Source, ...]

    def require_fits(self, recipe: Recipe, spec: DataSpec) -> None:
        """Refuse a teacher whose classes, input, images or stages are not those that students need.

        Args:
            recipe: Resolved recipe of the students.
            spec: Description of their data.

        Raises:
            IntegrityError: If classes, input shape or contents of the images differ.
            UsageError: If students would be validated on images that trained it, or it lacks a stage.
        """
        fitted = fit_to_data(self.model.network, self.model.spec, spec, self.version.uri)
        teacher_stages(recipe, fitted, spec.input_shape)
        if spec.name == self.model.spec.name:
            require_same_data(self.version.uri, self.model.spec, spec)
        for source in self.sources:
            if source.digest == spec.digest:
                _require_same_split(source, recipe)

    def pull(self, version: Version, data: DataSpec) -> nn.Module:
        """Return what ``pull_network`` returns; of this teacher a copy, without reading the store again."""
        if version.model_id != self.version.model_id:
            return pull_network(version, data)
        return fit_to_data(copy.deepcopy(self.model.network), self.model.spec, data, version.uri)


def version_of(teacher: FirstTeacher | Version | None) -> Version | None:
    """Return the version of a teacher that may come with its network."""
    return teacher.version if isinstance(teacher, FirstTeacher) else teacher


def load_teacher(uri: str) -> FirstTeacher:
    """Load the teacher at ``uri`` on all ranks.

    Raises:
        NotFoundError: If the store does not hold it, or a member of it.
        IntegrityError: If its files were altered, or it descends from itself.
        RegistryError: If the store does not answer.
    """
    init_processes()
    return on_main_process(lambda: _load(uri))


def _load(uri: str) -> FirstTeacher:
    version = find_version(uri)
    require_no_circle(version)
    model = load_version(version)
    return FirstTeacher(version, model, tuple(_find_sources(version.uri, model)))


def _find_sources(uri: str, model: LoadedModel) -> list[Source]:
    """Return what a model was trained on; of an ensemble, what each of its members was."""
    if not model.members:
        return [Source(uri, model.spec.digest, model.recipe)]
    models = model.copies or [load_member(member) for member in model.members]
    pairs = zip(model.members, models, strict=True)
    return [source for member, one in pairs for source in _find_sources(f"models:/{member.id}", one)]


def _require_same_split(source: Source, recipe: Recipe) -> None:
    """Refuse to validate students on images that trained their teacher.

    The images held out depend on ``data.seed`` and ``data.validation`` alone: a student may train on fewer
    images, or hold out none. Since every student is checked, no ancestor has seen what it validates on.

    Raises:
        UsageError: If the recipe holds out other images than the teacher's.
    """
    if not source.recipe or recipe.data.validation == 0:
        return
    taught, own = Recipe.from_json(source.recipe).data, recipe.data
    if (taught.seed, taught.validation) != (own.seed, own.validation):
        raise UsageError(
            f"data.seed and data.validation must be those of {source.uri}, {taught.seed} and"
            f" {taught.validation}, or students are validated on images that trained their teacher, but are"
            f" {own.seed} and {own.validation}; set them so, or data.validation=0."
        )
