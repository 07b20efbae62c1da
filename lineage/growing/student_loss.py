"""A student's loss as its recipe describes it: labels, distillation loss and terms that compare features."""

from collections.abc import Sequence

import ignite.distributed as idist
import torch
from torch import nn

from lineage.data.images import DataSpec
from lineage.errors import RecipeError
from lineage.models.networks import build_network
from lineage.models.stages import map_shapes, pick_stages, require_head
from lineage.recipe import Recipe, TermSettings
from lineage.training.maps import Shape
from lineage.training.student_loss import StudentLoss, build_student_loss, require_working, uses
from lineage.training.taught import TaughtNetwork, Terms
from lineage.training.terms import build_term, compares_samples, explains

_TEACHER = "the teacher"


def student_loss(recipe: Recipe, generation: int) -> StudentLoss:
    """Return the loss of the student of ``generation``, which counts from 1, without its terms.

    Raises:
        RecipeError: If it is unknown, does not take an option, or cannot be built.
    """
    student = recipe.student
    return build_student_loss(
        student.loss,
        student.options,
        label_weight=student.label_weight_for(generation),
        loss_weight=student.loss_weight_for(generation),
        temperature=student.temperature,
        standardise=student.standardise,
    )


def check_student_loss(recipe: Recipe, spec: DataSpec) -> None:
    """Check the loss of students, before anything is created.

    Raises:
        UsageError: If it does not work on data like ``spec``, or other settings of the recipe do not go with
            it.
    """
    for generation in recipe.student.taught_generations[:1]:
        _check_distillation(recipe, student_loss(recipe, generation), spec.num_classes)
    for term in recipe.student.terms:
        if compares_samples(term.name):
            _require_whole_batches(recipe, f"the term '{term.name}' of student.terms")
        if term.differentiate:
            _require_one_process(term)
    if recipe.student.terms:
        settings = recipe.network
        shape = spec.input_shape
        with torch.random.fork_rng():
            network = build_network(settings.name, spec.num_classes, shape, settings.builder_options)
        _stages(recipe, network, shape, f"the network '{settings.name}'")


def teacher_stages(recipe: Recipe, teacher: nn.Module, input_shape: Shape) -> list[str]:
    """Return the names of the teacher's submodules whose feature maps the terms take, one a term.

    Raises:
        UsageError: If the teacher has no such stage.
    """
    return _stages(recipe, teacher, input_shape, _TEACHER)


def teacher_heads(
    recipe: Recipe, teacher: nn.Module, stages: Sequence[str], input_shape: Shape
) -> dict[int, nn.Linear | None]:
    """Return what explains the teacher's maps of some stages, by their position; see ``LiveTeacher``.

    Raises:
        UsageError: If its logits are no linear layer of the means of the maps.
    """
    return {
        index: _head(term, teacher, stages[index], input_shape, _TEACHER)
        for index, term in enumerate(recipe.student.terms)
        if explains(term.name)
    }


def with_terms(
    recipe: Recipe, network: nn.Module, teacher: nn.Module | None, input_shape: Shape
) -> nn.Module:
    """Return a student with the terms of its loss, initialised from torch's global random state.

    Args:
        recipe: Recipe of the student.
        network: The student; it is returned as it is where its loss has no terms.
        teacher: Its teacher; None if what it gave is stored.
        input_shape: (channels, H, W) of an image.

    Raises:
        UsageError: If either network has no such stage.
    """
    settings = recipe.student.terms
    if not settings:
        return network
    who = f"the network '{recipe.network.name}'"
    stages = _stages(recipe, network, input_shape, who)
    shapes = map_shapes(network, stages, input_shape)
    their_shapes = shapes
    if teacher is not None:
        their_shapes = map_shapes(teacher, teacher_stages(recipe, teacher, input_shape), input_shape)
    terms = []
    for term, stage, shape, their_shape in zip(settings, stages, shapes, their_shapes, strict=True):
        head = _head(term, network, stage, input_shape, who) if explains(term.name) else None
        terms.append(build_term(term.name, shape, their_shape, head=head))
    return TaughtNetwork(network, Terms(terms, [term.weight for term in settings], stages))


def _stages(recipe: Recipe, network: nn.Module, input_shape: Shape, who: str) -> list[str]:
    """Return the names of a network's submodules whose feature maps the terms take, one a term."""
    terms = recipe.student.terms
    if not terms:
        return []
    stages = pick_stages(network, input_shape, [term.stage for term in terms], who)
    map_shapes(network, stages, input_shape)  # which refuses what are no maps
    for term, stage in zip(terms, stages, strict=True):
        if explains(term.name):
            _head(term, network, stage, input_shape, who)
    return stages


def _head(
    term: TermSettings, network: nn.Module, stage: str, input_shape: Shape, who: str
) -> nn.Linear | None:
    """Return the layer that explains a network's logits by a stage's maps; None to differentiate them."""
    return None if term.differentiate else require_head(network, stage, input_shape, who)


def _check_distillation(recipe: Recipe, loss: StudentLoss, num_classes: int) -> None:
    if uses(loss.name, "gather"):
        _require_whole_batches(recipe, f"student.loss '{loss.name}'")
    if loss.temperature != 1 and not uses(loss.name, "temperature"):
        raise RecipeError(
            f"student.temperature must be left out where student.loss is '{loss.name}', which has none, but"
            f" is {loss.temperature:g}."
        )
    require_working(loss, num_classes)


def _require_one_process(term: TermSettings) -> None:
    processes = idist.get_world_size()
    if processes > 1:
        raise RecipeError(
            f"The term '{term.name}' with differentiate must be trained by one process, since gradients of"
            f" gradients are not shared between several, but there are {processes}; leave out differentiate,"
            " or start one process."
        )


def _require_whole_batches(recipe: Recipe, who: str) -> None:
    if recipe.training.accumulation > 1:
        raise RecipeError(
            f"training.accumulation must be 1 where {who} compares the samples of a batch, but is"
            f" {recipe.training.accumulation}, which computes a batch in parts; leave it out."
        )
