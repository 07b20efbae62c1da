"""What a recipe says of one generation: the parts of its training.

Here the recipe ends: what is below takes plain arguments.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lineage.data.batches import TrainingBatches, split_indices, training_batches
from lineage.data.datasets import load_dataset
from lineage.data.images import Images
from lineage.errors import RecipeError
from lineage.growing.cache_key import SCHEDULE_SETTINGS, GenerationSpec, SplitData
from lineage.models.networks import build_network
from lineage.recipe import Recipe
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.devices import derive_seed, in_turns, make_accelerator
from lineage.training.engines import Loss
from lineage.training.generation import GenerationTraining, Samples, TrainConfig
from lineage.training.handlers import Schedule, build_optimizer, build_schedule
from lineage.training.losses import build_objective, distillation_loss
from lineage.training.measurement import Subset
from lineage.training.soft_targets import StoredSoftTargets
from lineage.training.teachers import LiveTeacher, StoredTeacher


def read_split_data(recipe: Recipe) -> SplitData:
    """Read and split the data that ``recipe`` names, and check what can only be checked against them.

    Raises:
        UsageError: If the recipe does not fit the data.
        NotFoundError: If the data are not there.
    """
    data = recipe.data
    dataset = in_turns(lambda: load_dataset(data.name, data.root, data.download, data.image_size))
    num_classes = dataset.spec.num_classes
    split = split_indices(dataset.train.labels, num_classes, data.validation, data.seed, data.train_samples)
    split_data = SplitData(dataset, *split)
    check_against_data(recipe, split_data)
    return split_data


def check_against_data(recipe: Recipe, split_data: SplitData) -> None:
    """Check what of ``recipe`` can only be checked against its data.

    Raises:
        UsageError: If the recipe does not fit the data.
    """
    num_classes = split_data.dataset.spec.num_classes
    if recipe.patriarch.top_k > num_classes:
        raise RecipeError(
            f"patriarch.top_k must be between 2 and the number of classes, {num_classes},"
            f" but got {recipe.patriarch.top_k}."
        )
    GenerationPlan(recipe, split_data, 0, None).check()


@dataclass(frozen=True)
class GenerationPlan(GenerationSpec):
    """One generation of a recipe, and how it is made."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Where this generation's unfinished state lies."""
        return Checkpoint(state_home() / self.key)

    @property
    def train(self) -> Subset:
        """The images that train."""
        return self._part(self.split_data.dataset.train, self.split_data.train)

    @property
    def validation(self) -> Subset:
        """The images held out; there may be none."""
        return self._part(self.split_data.dataset.train, self.split_data.validation)

    @property
    def test(self) -> Subset:
        """The test part, whole."""
        images = self.split_data.dataset.test
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
        if self.recipe.student.soft_targets == "stored":
            replace(self, generation=1, teacher_key="of a teacher").soft_target_format  # noqa: B018 - may be refused

    def make_teacher(self, network: nn.Module) -> LiveTeacher:
        """The network of the generation before as a teacher, on a fresh Accelerator."""
        return LiveTeacher(self._make_accelerator(), network, self.split_data.dataset.spec.input_shape)

    def make_training(self, teacher: nn.Module | StoredSoftTargets | None) -> GenerationTraining:
        """All parts of this generation's training, on a fresh Accelerator.

        Args:
            teacher: The network of the generation before, or what is stored of it; None for a patriarch.
        """
        training = self.recipe.training
        live = self.make_teacher(teacher) if isinstance(teacher, nn.Module) else None
        stored = teacher if isinstance(teacher, StoredSoftTargets) else None
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
            course=TrainConfig(
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

    def _part(self, images: Images, indices: Tensor) -> Subset:
        spec = self.split_data.dataset.spec
        return Subset(images, indices, spec, self.recipe.training.batch_size, self.recipe.data.workers)

    def _build_network(self) -> nn.Module:
        spec = self.split_data.dataset.spec
        name = self.recipe.network.name
        return build_network(name, spec.num_classes, spec.input_shape, self.network_options)

    def _loss(self) -> Loss:
        if self.teacher_key:
            return partial(_student_loss, **self.own_settings)
        objective = build_objective(self.objective, self.recipe.patriarch.model_dump())
        return lambda logits, labels, _teacher_logits: objective(logits, labels)

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
            num_views=self.views_again,
            soft_targets=soft_targets,
        )


def _student_loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, *, label_weight: float, temperature: float
) -> Tensor:
    """The distillation loss in the order of arguments that a trainer uses."""
    assert teacher_logits is not None
    return distillation_loss(logits, teacher_logits, labels, label_weight, temperature)
