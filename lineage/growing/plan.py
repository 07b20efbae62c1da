"""One generation's training, built from its settings.

The recipe is read here for the last time: everything below takes plain arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from lineage.data.batches import TrainingBatches, training_batches
from lineage.errors import IntegrityError, RecipeError, UsageError
from lineage.evaluation.data import SplitData, read_split
from lineage.formats import first_line
from lineage.growing.cache_key import SCHEDULE_SETTINGS, GenerationSettings, soft_target_format
from lineage.growing.optimization import check_optimization, fine_tuning, make_handlers, make_optimizer
from lineage.growing.student_loss import (
    check_student_loss,
    student_loss,
    teacher_heads,
    teacher_stages,
    with_terms,
)
from lineage.models.networks import build_network, check_network
from lineage.recipe import PatriarchSettings, Recipe
from lineage.registry.family.data import find_other_data
from lineage.training.attaching import Attach
from lineage.training.batch_size import require_batch_size
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.config import TrainConfig
from lineage.training.devices import derive_seed, make_accelerator
from lineage.training.engines import Loss
from lineage.training.generation import GenerationData, GenerationTraining
from lineage.training.handlers import Schedule, build_schedule
from lineage.training.losses import build_objective, objective_settings
from lineage.training.measurement import Subset
from lineage.training.soft_targets import StoredSoftTargets
from lineage.training.teachers import LiveTeacher, StoredTeacher


def read_split_data(recipe: Recipe) -> SplitData:
    """Read and split the data that ``recipe`` names, and check the recipe against them.

    Raises:
        UsageError: If the recipe fits neither the data nor the hardware.
        NotFoundError: If the images are not there.
    """
    split_data = read_split(recipe.data)
    check_against_data(recipe, split_data)
    return split_data


def require_family_data(recipe: Recipe, split_data: SplitData, remedy: str) -> None:
    """Refuse data whose contents have changed since the family was grown on them.

    Args:
        recipe: Resolved recipe.
        split_data: Data that it names.
        remedy: What to do if the change is wanted.

    Raises:
        IntegrityError: If the family has generations on the same data set, all with other contents.
        RegistryError: If the store does not answer.
    """
    spec, name = split_data.dataset.spec, recipe.model.name
    found = find_other_data(name, spec, recipe.data.recorded_image_size)
    if found is not None:
        version, digest = found
        raise IntegrityError(
            f"The data '{spec.name}' must be those that '{name}' was grown on, with the digest"
            f" {digest[:12]}… as for {version.uri}, but have {spec.digest[:12]}…: images were added, removed"
            f" or changed; restore them, or {remedy}."
        )


def check_against_data(recipe: Recipe, split_data: SplitData) -> None:
    """Check everything in ``recipe`` that depends on its data or on the hardware.

    Raises:
        UsageError: If the recipe fits neither the data nor the hardware.
    """
    num_classes = split_data.dataset.spec.num_classes
    if num_classes < 2:
        raise UsageError(f"A data set must have at least 2 classes, but this one has {num_classes}.")
    if recipe.patriarch.top_k > num_classes and _ranks_classes(recipe.patriarch):
        raise RecipeError(
            f"patriarch.top_k must be between 2 and the number of classes, {num_classes},"
            f" but got {recipe.patriarch.top_k}."
        )
    if recipe.student.soft_targets == "stored":
        soft_target_format(recipe.student, num_classes)
    checked: list[Any] = []
    for generation in recipe.distinct_generations:
        plan = GenerationPlan(recipe, split_data, generation, "teacher" if generation else None)
        own = plan.recipe.network, plan.recipe.student, plan.recipe.training
        if own not in checked:
            checked.append(own)
            check_student_loss(plan.recipe, split_data.dataset.spec)
            plan.check()
        _check_soft_labels(plan)


def _check_soft_labels(plan: "GenerationPlan") -> None:
    """Try the loss on two made-up samples with soft labels, where mixed views have such labels.

    Raises:
        RecipeError: If it does not take them.
    """
    if not plan.augmentation.mixes:
        return
    num_classes = plan.split_data.dataset.spec.num_classes
    logits, labels = torch.zeros(2, num_classes), torch.full((2, num_classes), 1 / num_classes)
    try:
        value = plan._loss()(logits, labels, logits, 1.0)
        found = "" if value.shape == () else f"returns a tensor {tuple(value.shape)}"
    except Exception as error:  # a package's loss is any code
        found = f"fails: {first_line(error)}"
    if found:
        raise RecipeError(
            f"The loss '{plan.objective}' must take soft labels, shape (B, {num_classes}), where"
            f" data.augment.mixup or data.augment.cutmix is set, but {found}; choose another loss, or leave"
            " them out."
        )


def _ranks_classes(patriarch: PatriarchSettings) -> bool:
    """Return whether K is used by the loss, or was set; metrics rank all classes if there are fewer."""
    is_default = patriarch.top_k == PatriarchSettings.model_fields["top_k"].default
    return not is_default or "top_k" in objective_settings(patriarch.objective, patriarch.model_dump())


@dataclass(frozen=True)
class GenerationPlan(GenerationSettings):
    """One generation of a recipe, with the parts that train and measure it."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Local state of the unfinished generation, in a folder named after its key."""
        return Checkpoint(state_home() / self.key)

    @property
    def train(self) -> Subset:
        """Images to train on."""
        return self.split_data.train_subset(self.recipe.training.batch_size, self.recipe.data.workers)

    @property
    def validation(self) -> Subset:
        """Images held out of training; there may be none."""
        return self.split_data.validation_subset(self.recipe.training.batch_size, self.recipe.data.workers)

    @property
    def test(self) -> Subset:
        """The whole test part."""
        return self.split_data.test_subset(self.recipe.training.batch_size, self.recipe.data.workers)

    def check(self) -> None:
        """Build every part that can fail, before anything is created.

        Raises:
            UsageError: If a name or an option of the recipe does not exist, sizes do not fit, or the hardware
                lacks what the recipe asks for.
        """
        accelerator = self._make_accelerator()
        spec, network = self.split_data.dataset.spec, self.recipe.network
        check_network(network.name, spec.num_classes, spec.input_shape, self.network_options)
        if self.initial_weights is not None:
            self.initial_weights.build(spec.num_classes, spec.input_shape, network.builder_options)
        self._loss()
        self._schedule()
        check_optimization(self.recipe, self._build_network, spec.input_shape)
        self._batches(None)
        training = self.recipe.training
        require_batch_size(
            accelerator,
            self._build_network,
            spec.input_shape,
            batch_size=training.batch_size,
            accumulation=training.accumulation,
            sync_batchnorm=training.sync_batchnorm,
        )

    def make_teacher(self, network: nn.Module) -> LiveTeacher:
        """Return the previous generation's network as a teacher, on a fresh Accelerator.

        Raises:
            UsageError: If the student's loss has terms that do not go with the network.
        """
        shape = self.split_data.dataset.spec.input_shape
        stages = teacher_stages(self.recipe, network, shape)
        explained = teacher_heads(self.recipe, network, stages, shape)
        return LiveTeacher(self._make_accelerator(), network, shape, stages, explained)

    def make_training(
        self, teacher: nn.Module | StoredSoftTargets | None, handlers: Sequence[Attach] = ()
    ) -> GenerationTraining:
        """Return this generation's training, on a fresh Accelerator.

        Args:
            teacher: Network of the previous generation, or its stored soft targets; None for a patriarch.
            handlers: Handlers to attach besides those of the recipe.

        Raises:
            UsageError: If the hardware lacks what the recipe asks for.
        """
        training = self.recipe.training
        shape = self.split_data.dataset.spec.input_shape
        live = None
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed("weights", self.seed))
            network = self._build_network()
            tuning = fine_tuning(self.recipe, network, shape)
            if isinstance(teacher, nn.Module):
                live = self.make_teacher(teacher)
            if teacher is not None:
                torch.manual_seed(derive_seed("terms", self.seed))
                shown = teacher if isinstance(teacher, nn.Module) else None
                network = with_terms(self.recipe, network, shown, shape)
        stored = teacher if isinstance(teacher, StoredSoftTargets) else None
        return GenerationTraining(
            accelerator=live.accelerator if live else self._make_accelerator(),
            network=network,
            optimizer=make_optimizer(training, network, tuning.factors),
            loss=self._loss(),
            teacher=live if stored is None else StoredTeacher(stored),
            data=GenerationData(self._batches(stored), self.validation, self.test),
            config=TrainConfig(
                epochs=training.epochs,
                lr=training.lr,
                schedule=self._schedule(),
                seed=self.seed,
                top_k=self.recipe.patriarch.top_k,
                clip_norm=training.clip_norm,
                average_decay=training.ema,
                accumulation=training.accumulation,
                sync_batchnorm=training.sync_batchnorm,
                needs_teacher=self.needs_teacher,
                teacher_warmup=self.recipe.student.warmup_epochs,
                frozen=tuning.frozen,
                validate_every=training.validate_every,
                patience=training.patience,
                generation=self.generation,
                handlers=(*make_handlers(training), *handlers),
            ),
            checkpoint=self.checkpoint,
        )

    def _make_accelerator(self) -> Accelerator:
        training = self.recipe.training
        return make_accelerator(training.precision, training.accumulation, training.sync_batchnorm)

    @property
    def network_options(self) -> dict[str, Any]:
        """Options that build the network of a trained generation, without its initial weights."""
        options = self.recipe.network.builder_options
        return options if self.initial_weights is None else self.initial_weights.options(options)

    def starting_note(self) -> str:
        """Return a sentence if the last layer is not that of the weights that it starts from, else ""."""
        spec, start = self.split_data.dataset.spec, self.initial_weights
        if start is None:
            return ""
        with torch.random.fork_rng():
            return start.build(spec.num_classes, spec.input_shape, self.recipe.network.builder_options)[1]

    def _build_network(self) -> nn.Module:
        spec, network = self.split_data.dataset.spec, self.recipe.network
        if self.initial_weights is not None:
            return self.initial_weights.build(spec.num_classes, spec.input_shape, network.builder_options)[0]
        return build_network(network.name, spec.num_classes, spec.input_shape, network.builder_options)

    def _loss(self) -> Loss:
        if self.teacher_key:
            return student_loss(self.recipe, self.generation)
        objective = build_objective(self.objective, self.recipe.patriarch.model_dump())
        return lambda logits, labels, _teacher_logits, _share: objective(logits, labels)

    def _schedule(self) -> Schedule:
        training = self.recipe.training
        settings = training.model_dump(include=SCHEDULE_SETTINGS)
        return build_schedule(training.schedule, training.warmup_epochs, settings)

    def _batches(self, soft_targets: StoredSoftTargets | None) -> TrainingBatches:
        dataset = self.split_data.dataset
        training = self.recipe.training
        return training_batches(
            dataset.train,
            dataset.spec,
            self.split_data.train,
            training.batch_size,
            self.augmentation,
            data_seed=self.recipe.data.seed,
            order_seed=self.seed,
            workers=self.recipe.data.workers,
            accumulation=training.accumulation,
            num_views=self.views_before_repeat,
            soft_targets=soft_targets,
            balance_classes=training.balance_classes,
        )
