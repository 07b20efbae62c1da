"""A student's loss as its recipe describes it: labels, distillation loss and terms that compare features."""

import torch
from torch import nn

from lineage.data.images import DataSpec
from lineage.errors import RecipeError
from lineage.models.networks import build_network
from lineage.models.stages import map_shapes, pick_stages, require_head
from lineage.recipe import Recipe
from lineage.training.maps import Shape
from lineage.training.student_loss import StudentLoss, build_student_loss, require_working, uses
from lineage.training.taught import TaughtNetwork, Terms
from lineage.training.terms import build_term, compares_samples, needs_head

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


def with_terms(recipe: Recipe, network: nn.Module, teacher: nn.Module, input_shape: Shape) -> nn.Module:
    """Return a student with the terms of its loss, initialised from torch's global random state.

    Args:
        recipe: Recipe of the student.
        network: The student; it is returned as it is where its loss has no terms.
        teacher: Its teacher.
        input_shape: (channels, H, W) of an image.

    Raises:
        UsageError: If either network has no such stage.
    """
    settings = recipe.student.terms
    if not settings:
        return network
    who = f"the network '{recipe.network.name}'"
    stages = _stages(recipe, network, input_shape, who)
    theirs = teacher_stages(recipe, teacher, input_shape)
    shapes = map_shapes(network, stages, input_shape), map_shapes(teacher, theirs, input_shape)
    terms = []
    for term, stage, their_stage, shape, their_shape in zip(settings, stages, theirs, *shapes, strict=True):
        heads = {}
        if needs_head(term.name):
            heads["head"] = require_head(network, stage, input_shape, who, term.name)
            heads["teacher_head"] = require_head(teacher, their_stage, input_shape, _TEACHER, term.name)
        terms.append(build_term(term.name, shape, their_shape, **heads))
    return TaughtNetwork(network, Terms(terms, [term.weight for term in settings], stages))


def _stages(recipe: Recipe, network: nn.Module, input_shape: Shape, who: str) -> list[str]:
    """Return the names of a network's submodules whose feature maps the terms take, one a term."""
    terms = recipe.student.terms
    if not terms:
        return []
    stages = pick_stages(network, input_shape, [term.stage for term in terms], who)
    map_shapes(network, stages, input_shape)  # which refuses what are no maps
    for term, stage in zip(terms, stages, strict=True):
        if needs_head(term.name):
            require_head(network, stage, input_shape, who, term.name)
    return stages


def _check_distillation(recipe: Recipe, loss: StudentLoss, num_classes: int) -> None:
    if uses(loss.name, "gather"):
        _require_whole_batches(recipe, f"student.loss '{loss.name}'")
    if loss.temperature != 1 and not uses(loss.name, "temperature"):
        raise RecipeError(
            f"student.temperature must be left out where student.loss is '{loss.name}', which has none, but"
            f" is {loss.temperature:g}."
        )
    require_working(loss, num_classes)


def _require_whole_batches(recipe: Recipe, who: str) -> None:
    if recipe.training.accumulation > 1:
        raise RecipeError(
            f"training.accumulation must be 1 where {who} compares the samples of a batch, but is"
            f" {recipe.training.accumulation}, which computes a batch in parts; leave it out."
        )
