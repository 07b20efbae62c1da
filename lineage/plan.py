"""What a recipe says of one generation: its key, and the parts of its training.

Here the recipe ends: what is below takes plain arguments.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from lineage.errors import RecipeError
from lineage.recipe import Recipe
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.devices import derive_seed, in_turns, make_accelerator
from lineage.training.engines import Loss
from lineage.training.generation import Course, GenerationTraining, Part, Samples
from lineage.training.handlers import (
    Schedule,
    build_optimizer,
    build_schedule,
    optimizer_settings,
    schedule_settings,
)
from lineage.training.losses import build_objective, distillation_loss, objective_settings
from lineage.vision.batches import Augmentation, TrainingBatches, split_indices, training_batches
from lineage.vision.datasets import load_dataset
from lineage.vision.images import DataSet, Images
from lineage.vision.networks import build_network

STUDENT = "student"

_SCHEDULE_SETTINGS = {"epochs", "milestones", "gamma"}
# Settings of the training that count whatever the optimizer and the schedule are
_ALWAYS_USED = (
    "epochs",
    "batch_size",
    "decay_norm_and_bias",
    "warmup_epochs",
    "clip_norm",
    "precision",
    "ema",
    "accumulation",
)


@dataclass(frozen=True)
class Material:
    """A recipe's data: read and split once, the same for the whole family.

    Attributes:
        dataset: Both parts with their description.
        train: Rows of the training part to train on, shape (N,).
        validation: Rows of the training part held out; may be empty.
    """

    dataset: DataSet
    train: Tensor
    validation: Tensor


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
class Plan:
    """One generation of a recipe.

    Attributes:
        recipe: Resolved.
        material: Its data.
        generation: Index from 0.
        teacher_key: Of the generation before; None for a patriarch.
    """

    recipe: Recipe
    material: Material
    generation: int
    teacher_key: str | None

    @property
    def objective(self) -> str:
        """Name of the patriarch's loss, or ``student``."""
        return STUDENT if self.teacher_key else self.recipe.patriarch.objective

    @cached_property
    def own_settings(self) -> dict[str, Any]:
        """What this generation's loss depends on: of an objective, only the settings that it uses."""
        if self.teacher_key:
            student = self.recipe.student
            return {
                "label_weight": student.label_weight_for(self.generation),
                "temperature": student.temperature,
            }
        return objective_settings(self.objective, self.recipe.patriarch.model_dump())

    @cached_property
    def key(self) -> str:
        """Digest of everything that the weights depend on, and of nothing else: growing again finds it."""
        data = self.recipe.data
        contents = asdict(self.material.dataset.description) | {"name": None}  # whatever they are called
        depends_on = {
            "data": contents,
            "split": [data.seed, data.validation, data.train_samples],
            "augmentation": self._augmentation_settings,
            "network": [self.recipe.network.name, self.network_options],
            "training": self._training_settings,
            "objective": [self.objective, self.own_settings],
            "seed": [self.recipe.succession.seed, self.generation],
            "teacher": self.teacher_key,
        }
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()

    @property
    def _training_settings(self) -> dict[str, Any]:
        """Settings of the training, of optimizer and schedule only those that they use."""
        given = self.recipe.training.model_dump()
        shape = {name: given[name] for name in _SCHEDULE_SETTINGS}
        return {name: given[name] for name in _ALWAYS_USED} | {
            "optimizer": [given["optimizer"], optimizer_settings(given["optimizer"], given)],
            "schedule": [given["schedule"], schedule_settings(given["schedule"], shape)],
        }

    @property
    def _augmentation_settings(self) -> dict[str, Any]:
        """How images are varied: the way they are padded only where they are."""
        settings = asdict(self._augmentation)
        return settings if settings["crop_padding"] else settings | {"padding_mode": None}

    @property
    def seed(self) -> int:
        """Of initial weights, order and dropout; no two generations or successions share it."""
        return derive_seed("generation", self.recipe.succession.seed, self.generation)

    @property
    def network_options(self) -> dict[str, Any]:
        """Arguments of the network's builder beyond classes and input shape.

        Raises:
            RecipeError: If the width is given twice.
        """
        network = self.recipe.network
        if network.width is not None and "width" in network.options:
            raise RecipeError(
                f"The width must be given once, but network.width is {network.width} and"
                f" network.options.width is {network.options['width']}; remove one."
            )
        return network.options | ({} if network.width is None else {"width": network.width})

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Where this generation's unfinished state lies."""
        return Checkpoint(state_home() / self.key)

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
        self._batches()

    def make_training(self, teacher: nn.Module | None) -> GenerationTraining:
        """All parts of this generation's training, on a fresh Accelerator.

        Args:
            teacher: The network of the generation before; None for a patriarch.
        """
        training = self.recipe.training
        accelerator = make_accelerator(training.precision, training.accumulation)
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
            teacher=teacher,
            samples=Samples(
                batches=self._batches(),
                validation=self._part(self.material.dataset.train, self.material.validation),
                test=self.test,
            ),
            course=Course(
                epochs=training.epochs,
                lr=training.lr,
                schedule=self._schedule(),
                seed=self.seed,
                top_k=self.recipe.patriarch.top_k,
                clip_norm=training.clip_norm,
                average_decay=training.ema,
                accumulation=training.accumulation,
            ),
            checkpoint=self.checkpoint,
        )

    @property
    def _augmentation(self) -> Augmentation:
        data = self.recipe.data
        return Augmentation(data.crop_padding, data.padding_mode, data.flip)

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
        settings = training.model_dump(include=_SCHEDULE_SETTINGS)
        return build_schedule(training.schedule, training.warmup_epochs, settings)

    def _batches(self) -> TrainingBatches:
        dataset = self.material.dataset
        training = self.recipe.training
        return training_batches(
            dataset.train,
            dataset.description,
            self.material.train,
            training.batch_size,
            self._augmentation,
            data_seed=self.recipe.data.seed,
            order_seed=self.seed,
            workers=self.recipe.data.workers,
            accumulation=training.accumulation,
        )


def _student_loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, *, label_weight: float, temperature: float
) -> Tensor:
    """The distillation loss in the order of arguments that a trainer uses."""
    assert teacher_logits is not None
    return distillation_loss(logits, teacher_logits, labels, label_weight, temperature)
