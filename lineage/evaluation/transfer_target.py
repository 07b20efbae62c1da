"""What versions are transferred to: the images, their split, and how they are learned from.

Here the settings end: what is below takes plain arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lineage.data.batches import Augmentation, split_indices
from lineage.data.datasets import DataSet, load_dataset
from lineage.errors import UsageError
from lineage.evaluation.finetuning import Finetuning
from lineage.evaluation.probes import find_probe
from lineage.formats import json_digest
from lineage.recipe import Recipe, change_recipe
from lineage.registry.family.family import Version
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.devices import derive_seed, in_turns
from lineage.training.generation import TrainConfig
from lineage.training.handlers import build_schedule

FINETUNE = "finetune"
BATCH_SIZE = 128

_FINETUNING = {"epochs": 5, "batch_size": BATCH_SIZE, "lr": 0.01, "nesterov": True, "schedule": "cosine"}
_OPTIMIZER_SETTINGS = {"lr", "momentum", "nesterov", "weight_decay", "decay_norm_and_bias"}
_MOST_CLASSES_RANKED = 5


@dataclass(frozen=True, eq=False)
class Target:
    """What versions are transferred to, and how.

    Attributes:
        settings: A recipe of which the sections data, training and succession count.
        probe: Name.
        dataset: As it is, not yet fitted to a network.
        train: Rows of the training part to learn from, shape (N,).
        validation: Rows of the training part to choose on.
    """

    settings: Recipe
    probe: str
    dataset: DataSet
    train: Tensor
    validation: Tensor

    @property
    def seed(self) -> int:
        """Of what is drawn."""
        return self.settings.succession.seed

    @cached_property
    def chosen_settings(self) -> dict[str, Any]:
        """Those that the numbers depend on, under the names that ``--set`` knows."""
        data = self.settings.data
        found: dict[str, Any] = {
            "data.validation": data.validation,
            "data.seed": data.seed,
            "data.train_samples": data.train_samples,
        }
        if self.probe == FINETUNE:
            found |= {
                f"data.{name}": getattr(data, name) for name in ("crop_padding", "padding_mode", "flip")
            }
            training = self.settings.training.model_dump(mode="json")
            found |= {f"training.{name}": value for name, value in training.items()}
        return found

    def key(self, version: Version) -> str:
        """Digest of everything that the numbers of ``version`` depend on."""
        depends_on = {
            "weights": version.weights_sha256,
            "data": self.dataset.spec.digest,
            "probe": [self.probe, self.seed],
            "settings": self.chosen_settings,
        }
        return json_digest(depends_on)

    def checkpoint(self, version: Version) -> Checkpoint:
        """Where the unfinished finetuning of ``version`` keeps its state."""
        return Checkpoint(state_home() / self.key(version))

    def finetuning(self) -> Finetuning:
        """The settings of a finetuning as plain values."""
        training, data = self.settings.training, self.settings.data
        num_classes = self.dataset.spec.num_classes
        shape = training.model_dump(include={"epochs", "milestones", "gamma"})
        course = TrainConfig(
            epochs=training.epochs,
            lr=training.lr,
            schedule=build_schedule(training.schedule, training.warmup_epochs, shape),
            seed=derive_seed("transfer", self.seed),
            top_k=min(_MOST_CLASSES_RANKED, num_classes),
            clip_norm=training.clip_norm,
            average_decay=training.ema,
            accumulation=training.accumulation,
        )
        return Finetuning(
            course=course,
            optimizer=training.optimizer,
            optimizer_settings=training.model_dump(include=_OPTIMIZER_SETTINGS),
            batch_size=training.batch_size,
            augmentation=Augmentation(data.crop_padding, data.padding_mode, data.flip),
            data_seed=data.seed,
            workers=data.workers,
        )


def read_settings(to: str, probe: str, seed: int, overrides: Sequence[str]) -> Recipe:
    """The target's settings in the form of a recipe, so that they are read and refused as one's are.

    Raises:
        UsageError: If the probe is unknown, or a setting is none of the target's or cannot hold.
    """
    sections = {"data", "training"} if probe == FINETUNE else {"data"}
    if probe != FINETUNE:
        find_probe(probe)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.partition(".")[0] not in sections or key == "data.name":
            raise UsageError(
                "--set must give data.KEY=VALUE of the target, whose name --to gives, or, with --probe"
                f" finetune, training.KEY=VALUE, but got '{override}' with --probe {probe}."
            )
    base = {
        "model": {"name": "transfer"},
        "data": {"name": to},
        "network": {"name": "resnet8"},
        "patriarch": {"objective": "strict"},
        "student": {"label_weight": 1.0},
        "training": _FINETUNING,
        "succession": {"generations": 0, "seed": seed},
    }
    return change_recipe(Recipe.from_dict(base), overrides)


def read_target(settings: Recipe, probe: str) -> Target:
    """Read and split the target's data.

    Raises:
        UsageError: If they cannot be split, or a probe has nothing to choose on.
    """
    data = settings.data
    if data.validation == 0 and probe != FINETUNE:
        raise UsageError(
            f"data.validation must be greater than 0 for --probe {probe}, whose setting is chosen on it, but"
            " got 0; leave it out."
        )
    dataset = in_turns(lambda: load_dataset(data.name, data.root, data.download, data.image_size))
    num_classes = dataset.spec.num_classes
    split = split_indices(dataset.train.labels, num_classes, data.validation, data.seed, data.train_samples)
    return Target(settings, probe, dataset, *split)
