"""What a recipe says of one generation: the parts of its training.

Here the recipe ends: what is below takes plain arguments.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lineage.errors import RecipeError
from lineage.identity import SCHEDULE_SETTINGS, Identity, Material
from lineage.recipe import Recipe
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.devices import derive_seed, in_turns, make_accelerator
from lineage.training.engines import Loss
from lineage.training.generation import Course, GenerationTraining, Samples
from lineage.training.handlers import Schedule, build_optimizer, build_schedule
from lineage.training.losses import build_objective, distillation_loss
from lineage.training.measurement import Part
from lineage.training.signals import StoredSignals
from lineage.training.teachers import LiveTeacher, StoredTeacher
from lineage.vision.batches import TrainingBatches, split_indices, training_batches
from lineage.vision.datasets import load_dataset
from lineage.vision.images import Images
from lineage.vision.networks import build_network


def read_material(recipe: Recipe) -> Material:
    """Read and split the data that ``recipe`` names, and check what can only be checked against them.

    Raises:
        UsageError: If the recipe does not fit the data.
        NotFoundError: If the data are not there.
    """
    data = recipe.data
    dataset = in_turns(lambda: load_dataset(data.name, data.root, data.download, data.image_size))
    num_classes = dataset.description.num_classes
    split = split_indices(dataset.train.labels, num_classes, data.validation, data.seed, data.train_samples)
    material = Material(dataset, *split)
    check_against_data(recipe, material)
    return material


def check_against_data(recipe: Recipe, material: Material) -> None:
    """Check what of ``recipe`` can only be checked against its data.

    Raises:
        UsageError: If the recipe does not fit the data.
    """
    num_classes = material.dataset.description.num_classes
    if recipe.patriarch.top_k > num_classes:
        raise RecipeError(
            f"patriarch.top_k must be between 2 and the number of classes, {num_classes},"
            f" but got {recipe.patriarch.top_k}."
        )
    Plan(recipe, material, 0, None).check()


@dataclass(frozen=True)
class Plan(Identity):
    """One generation of a recipe, and how it is made."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Where this generation's unfinished state lies."""
        return Checkpoint(state_home() / self.key)

    @property
    def train(self) -> Part:
        """The images that train."""
        return self._part(self.material.dataset.train, self.material.train)

    @property
    def validation(self) -> Part:
        """The images held out; there may be none."""
        return self._part(self.material.dataset.train, self.material.validation)

    @property
    def test(self) -> Part:
        """The test part, whole."""
        images = self.material.dataset.test
        return self._part(images, torch.arange(len(images)))

    def check(self) -> None:
        """Build what can fail, before anything is created.

        Raises:
            UsageError: If a name or an option of the recipe does not exist, or sizes do not fit.
        """
        self._build_network()
        self._loss()
        self._schedule()
        self._batches(None)
        if self.recipe.student.signals == "stored":
            replace(self, generation=1, teacher_key="of a teacher").signal_form  # noqa: B018 - may be refused

    def make_teacher(self, network: nn.Module) -> LiveTeacher:
        """The network of the generation before as a teacher, on a fresh Accelerator."""
        return LiveTeacher(self._make_accelerator(), network, self.material.dataset.description.input_shape)

    def make_training(self, teacher: nn.Module | StoredSignals | None) -> GenerationTraining:
        """All parts of this generation's training, on a fresh Accelerator.

        Args:
            teacher: The network of the generation before, or what is stored of it; None for a patriarch.
        """
        training = self.recipe.training
        live = self.make_teacher(teacher) if isinstance(teacher, nn.Module) else None
        stored = teacher if isinstance(teacher, StoredSignals) else None
        accelerator = (
            live.accelerator if live else make_accelerator(training.precision, training.accumulation)
        )
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed("weights", self.seed))
            network = self._build_network()
        return GenerationTraining(
            accelerator=accelerator,
            network=network,
            optimizer=build_optimizer(
                training.optimizer,
                network,
                decay_norm_and_bias=training.decay_norm_and_bias,
                lr=training.lr,
                momentum=training.momentum,
                nesterov=training.nesterov,
                weight_decay=training.weight_decay,
            ),
            loss=self._loss(),
            teacher=live if stored is None else StoredTeacher(stored),
            samples=Samples(self._batches(stored), self.validation, self.test),
            course=Course(
                epochs=training.epochs,
                lr=training.lr,
                schedule=self._schedule(),
                seed=self.seed,
                top_k=self.recipe.patriarch.top_k,
                clip_norm=training.clip_norm,
                average_decay=training.ema,
                accumulation=training.accumulation,
                sync_batchnorm=training.sync_batchnorm,
            ),
            checkpoint=self.checkpoint,
        )

    def _make_accelerator(self) -> Accelerator:
        training = self.recipe.training
        return make_accelerator(training.precision, training.accumulation, training.sync_batchnorm)

    def _part(self, images: Images, indices: Tensor) -> Part:
        description = self.material.dataset.description
        return Part(images, indices, description, self.recipe.training.batch_size, self.recipe.data.workers)

    def _build_network(self) -> nn.Module:
        description = self.material.dataset.description
        name = self.recipe.network.name
        return build_network(name, description.num_classes, description.input_shape, self.network_options)

    def _loss(self) -> Loss:
        if self.teacher_key:
            return partial(_student_loss, **self.own_settings)
        objective = build_objective(self.objective, self.recipe.patriarch.model_dump())
        return lambda logits, labels, _teacher_logits: objective(logits, labels)

    def _schedule(self) -> Schedule:
        training = self.recipe.training
        settings = training.model_dump(include=SCHEDULE_SETTINGS)
        return build_schedule(training.schedule, training.warmup_epochs, settings)

    def _batches(self, signals: StoredSignals | None) -> TrainingBatches:
        dataset = self.material.dataset
        training = self.recipe.training
        return training_batches(
            dataset.train,
            dataset.description,
            self.material.train,
            training.batch_size,
            self.augmentation,
            data_seed=self.recipe.data.seed,
            order_seed=self.seed,
            workers=self.recipe.data.workers,
            accumulation=training.accumulation,
            num_views=self.views_again,
            signals=signals,
        )


def _student_loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, *, label_weight: float, temperature: float
) -> Tensor:
    """The distillation loss in the order of arguments that a trainer uses."""
    assert teacher_logits is not None
    return distillation_loss(logits, teacher_logits, labels, label_weight, temperature)
