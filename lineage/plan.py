"""What a recipe says of one generation: its key, and the parts of its training.

Here the recipe ends: what is below takes plain arguments.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from lineage.errors import RecipeError
from lineage.recipe import Recipe
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.devices import derive_seed, in_turns, make_accelerator
from lineage.training.engines import Loss
from lineage.training.generation import Course, GenerationTraining, Samples
from lineage.training.handlers import (
    Schedule,
    build_optimizer,
    build_schedule,
    optimizer_settings,
    schedule_settings,
)
from lineage.training.losses import build_objective, distillation_loss, objective_settings
from lineage.training.measurement import Part
from lineage.training.signals import SignalForm, StoredSignals
from lineage.training.teachers import LiveTeacher, StoredTeacher
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
        depends_on: dict[str, Any] = {
            "data": self._contents,
            "split": self._split,
            "augmentation": self._augmentation_settings,
            "network": [self.recipe.network.name, self.network_options],
            "training": self._training_settings,
            "objective": [self.objective, self.own_settings],
            "seed": [self.recipe.succession.seed, self.generation],
            "teacher": self.teacher_key,
        }
        if self.views_again is not None:  # what most do not have does not change their keys
            depends_on["views"] = self.views_again
        if self.signal_form is not None:
            depends_on["signals"] = asdict(self.signal_form)
        if self.recipe.training.sync_batchnorm:
            depends_on["sync_batchnorm"] = True
        return _digest(depends_on)

    @property
    def views_again(self) -> int | None:
        """After how many epochs a student's views come again; None where every epoch has its own."""
        views = self.recipe.student.views
        return views if self.teacher_key and views and views < self.recipe.training.epochs else None

    @property
    def num_views(self) -> int:
        """How many views of each image the student sees."""
        return self.views_again or self.recipe.training.epochs

    @cached_property
    def signal_form(self) -> SignalForm | None:
        """How the teacher's answers are stored; None where the teacher itself is asked.

        Raises:
            UsageError: If the recipe wants more classes than there are.
        """
        student = self.recipe.student
        if not self.teacher_key or student.signals == "live" or self.num_views == 0:
            return None
        num_classes = self.material.dataset.description.num_classes
        top = student.signal_classes
        return SignalForm(num_classes, top, None if top is None else student.temperature)

    @cached_property
    def signals_digest(self) -> str:
        """Of what stored signals of one teacher depend on, but for how many views and which temperature."""
        return _digest(
            {
                "data": self._contents,
                "split": self._split,
                "augmentation": self._augmentation_settings,
                "precision": self.recipe.training.precision,
                "classes": self.recipe.student.signal_classes,
            }
        )

    @property
    def _contents(self) -> dict[str, Any]:
        """Of the data set, whatever it is called."""
        return asdict(self.material.dataset.description) | {"name": None}

    @property
    def _split(self) -> list[Any]:
        data = self.recipe.data
        return [data.seed, data.validation, data.train_samples]

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
        settings = asdict(self.augmentation)
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
    def augmentation(self) -> Augmentation:
        """How training images are varied."""
        data = self.recipe.data
        return Augmentation(data.crop_padding, data.padding_mode, data.flip)

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
        training = self.recipe.training
        accelerator = make_accelerator(training.precision, training.accumulation)
        return LiveTeacher(accelerator, network, self.material.dataset.description.input_shape)

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


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _student_loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, *, label_weight: float, temperature: float
) -> Tensor:
    """The distillation loss in the order of arguments that a trainer uses."""
    assert teacher_logits is not None
    return distillation_loss(logits, teacher_logits, labels, label_weight, temperature)
