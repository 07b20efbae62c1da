"""What a generation of a recipe is: the settings that it depends on, and the key that is their digest.

Growing again finds a generation by its key, so everything that changes the weights enters it, and nothing
else does.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lineage.data.batches import Augmentation
from lineage.data.images import DataSet
from lineage.errors import RecipeError
from lineage.formats import json_digest
from lineage.recipe import Recipe
from lineage.training.devices import derive_seed
from lineage.training.handlers import optimizer_settings, schedule_settings
from lineage.training.losses import objective_settings
from lineage.training.soft_targets import SoftTargetFormat

STUDENT = "student"

SCHEDULE_SETTINGS = {"epochs", "milestones", "gamma"}
# Settings of the training that count whatever the optimizer and the schedule are
ALWAYS_USED = (
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
class SplitData:
    """A recipe's data: read and split once, the same for the whole family.

    Attributes:
        dataset: Both parts with their description.
        train: Rows of the training part to train on, shape (N,).
        validation: Rows of the training part held out; may be empty.
    """

    dataset: DataSet
    train: Tensor
    validation: Tensor


@dataclass(frozen=True)
class GenerationSpec:
    """One generation of a recipe.

    Attributes:
        recipe: Resolved.
        split_data: Its data.
        generation: Index from 0.
        teacher_key: Of the generation before; None for a patriarch.
    """

    recipe: Recipe
    split_data: SplitData
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
        if self.soft_target_format is not None:
            depends_on["signals"] = asdict(self.soft_target_format)
        if self.recipe.training.sync_batchnorm:
            depends_on["sync_batchnorm"] = True
        return json_digest(depends_on)

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
    def soft_target_format(self) -> SoftTargetFormat | None:
        """How the teacher's answers are stored; None where the teacher itself is asked.

        Raises:
            UsageError: If the recipe wants more classes than there are.
        """
        student = self.recipe.student
        if not self.teacher_key or student.soft_targets == "live" or self.num_views == 0:
            return None
        num_classes = self.split_data.dataset.spec.num_classes
        top = student.soft_target_classes
        return SoftTargetFormat(num_classes, top, None if top is None else student.temperature)

    @cached_property
    def soft_targets_digest(self) -> str:
        """Digest of what a teacher's stored soft targets depend on, except views and temperature."""
        return json_digest(
            {
                "data": self._contents,
                "split": self._split,
                "augmentation": self._augmentation_settings,
                "precision": self.recipe.training.precision,
                "classes": self.recipe.student.soft_target_classes,
            }
        )

    @property
    def _contents(self) -> dict[str, Any]:
        """Of the data set, whatever it is called."""
        return asdict(self.split_data.dataset.spec) | {"name": None}

    @property
    def _split(self) -> list[Any]:
        data = self.recipe.data
        return [data.seed, data.validation, data.train_samples]

    @property
    def _training_settings(self) -> dict[str, Any]:
        """Settings of the training, of optimizer and schedule only those that they use."""
        given = self.recipe.training.model_dump()
        shape = {name: given[name] for name in SCHEDULE_SETTINGS}
        return {name: given[name] for name in ALWAYS_USED} | {
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

    @property
    def augmentation(self) -> Augmentation:
        """How training images are varied."""
        data = self.recipe.data
        return Augmentation(data.crop_padding, data.padding_mode, data.flip)
