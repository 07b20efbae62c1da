"""The target of a transfer: its images, their split, and how a network learns from them.

The settings are read here for the last time: everything below takes plain arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lineage.errors import UsageError
from lineage.evaluation.data import SplitData, augmentation_of, default_top_k, read_split
from lineage.evaluation.finetuning import Finetuning
from lineage.evaluation.probes import find_probe
from lineage.formats import json_digest
from lineage.recipe import DataSettings, Sections, TrainingSettings, parse_settings, require_effect
from lineage.registry.family.family import Version
from lineage.training.checkpoints import Checkpoint, state_home
from lineage.training.config import TrainConfig
from lineage.training.devices import derive_seed
from lineage.training.handlers import build_schedule, schedule_settings
from lineage.training.optimizers import SETTINGS, optimizer_settings

FINETUNE = "finetune"
BATCH_SIZE = 128

_FINETUNING_DEFAULTS = {
    "epochs": 5,
    "batch_size": BATCH_SIZE,
    "lr": 0.01,
    "nesterov": True,
    "schedule": "cosine",
}
_OPTIMIZER_SETTINGS = {*SETTINGS, "decay_norm_and_bias"}
_NOT_OF_FINETUNING = {
    *("handlers", "patience", "validate_every", "balance_classes", "freeze_stages", "layer_decay"),
}
_SCHEDULE_SETTINGS = {"epochs", "milestones", "gamma", "schedule_options"}
_AUGMENTATION_SETTINGS = ("crop_padding", "padding_mode", "flip")
_REMEDIES = {"data.name": "name the data set with --to"}
_PROBE_REMEDIES = _REMEDIES | {"training": "leave it out, or train the whole network with --probe finetune"}


class TargetSettings(Sections):
    """The sections of a recipe that say what a transfer learns from, and how finetuning trains."""

    data: DataSettings
    training: TrainingSettings


@dataclass(frozen=True, eq=False)
class Target:
    """A data set that versions are transferred to, with the way they learn from it.

    Attributes:
        settings: Data settings, and training settings that count for finetuning alone.
        probe: Name of the probe, or ``finetune``.
        seed: Seed of everything that is drawn.
        split_data: Images before they are fitted to a network, with rows to learn from and to choose on.
    """

    settings: TargetSettings
    probe: str
    seed: int
    split_data: SplitData

    @cached_property
    def result_settings(self) -> dict[str, Any]:
        """Settings that the results depend on, by the names that ``--set`` takes."""
        names = ["validation", "seed", "train_samples"]
        if self.probe == FINETUNE:
            names += _AUGMENTATION_SETTINGS
        settings = {f"data.{name}": getattr(self.settings.data, name) for name in names}
        if self.probe == FINETUNE:
            given = self.settings.training
            idle = _NOT_OF_FINETUNING | (set() if given.optimizer_options else {"optimizer_options"})
            training = given.model_dump(mode="json", exclude=idle)
            settings |= {f"training.{name}": value for name, value in training.items()}
            if not self.settings.training.schedule_options:  # a later setting, as below
                del settings["training.schedule_options"]
        if self.settings.data.subset is not None:  # a later setting: at its default, older keys stay valid
            settings["data.subset"] = self.settings.data.subset.model_dump()
        if self.probe == FINETUNE and self.settings.data.augment is not None:
            augment = self.settings.data.augment
            settings["data.augment"] = augment.model_dump(mode="json", exclude_defaults=True)
        return settings

    def key(self, version: Version) -> str:
        """Return the digest of everything that the results of ``version`` depend on."""
        depends_on = {
            "weights": version.weights_sha256,
            "data": self.split_data.dataset.spec.digest,
            "probe": [self.probe, self.seed],
            "settings": self.result_settings,
        }
        return json_digest(depends_on)

    def checkpoint(self, version: Version) -> Checkpoint:
        """Return the local state of the unfinished finetuning of ``version``."""
        return Checkpoint(state_home() / self.key(version))

    def finetuning(self) -> Finetuning:
        """Return the settings of a finetuning as plain values."""
        training, data = self.settings.training, self.settings.data
        config = TrainConfig(
            epochs=training.epochs,
            lr=training.lr,
            schedule=build_schedule(
                training.schedule, training.warmup_epochs, training.model_dump(include=_SCHEDULE_SETTINGS)
            ),
            seed=derive_seed("transfer", self.seed),
            top_k=default_top_k(self.split_data.dataset.spec.num_classes),
            clip_norm=training.clip_norm,
            average_decay=training.ema,
            accumulation=training.accumulation,
            sync_batchnorm=training.sync_batchnorm,
        )
        return Finetuning(
            config=config,
            optimizer=training.optimizer,
            optimizer_settings=training.model_dump(include=_OPTIMIZER_SETTINGS)
            | {"options": training.optimizer_options},
            batch_size=training.batch_size,
            augmentation=augmentation_of(data),
            data_seed=data.seed,
            workers=data.workers,
        )


def read_target_settings(to: str, probe: str, overrides: Sequence[str] = ()) -> TargetSettings:
    """Return the settings of a transfer to the data set ``to``, with ``overrides`` applied.

    Args:
        to: Data set, as ``data.name`` of a recipe.
        probe: Name of a probe, or ``finetune``.
        overrides: Texts ``section.key=value``.

    Raises:
        UsageError: If the probe is unknown, or an override has no effect with it or cannot hold.
    """
    if probe != FINETUNE:
        find_probe(probe)
    defaults = {"data": {"name": to}, "training": _FINETUNING_DEFAULTS}
    of_target = [override for override in overrides if override.partition(".")[0].strip() in defaults]
    settings = parse_settings(TargetSettings, defaults, of_target)
    used = _used_keys(settings, probe)
    if probe == FINETUNE:
        require_effect(overrides, used, "finetuning", _REMEDIES)
    else:
        require_effect(overrides, used, f"the {probe} probe", _PROBE_REMEDIES)
    return settings


def _used_keys(settings: TargetSettings, probe: str) -> list[str]:
    """Return the keys that have an effect; of optimizer and schedule, those that the chosen ones read."""
    unused = {"name"} if probe == FINETUNE else {"name", "augment", *_AUGMENTATION_SETTINGS}
    if settings.data.crop_padding == 0:
        unused.add("padding_mode")
    keys = [f"data.{name}" for name in DataSettings.model_fields if name not in unused]
    if probe != FINETUNE:
        return keys
    given = settings.training.model_dump()
    chosen = {
        *optimizer_settings(settings.training.optimizer, given),
        *schedule_settings(settings.training.schedule, {name: given[name] for name in _SCHEDULE_SETTINGS}),
        "epochs",
        "decay_norm_and_bias",
        "schedule_options",
    }
    idle = ((_OPTIMIZER_SETTINGS | _SCHEDULE_SETTINGS) - chosen) | _NOT_OF_FINETUNING
    return keys + [f"training.{name}" for name in TrainingSettings.model_fields if name not in idle]


def read_target(settings: TargetSettings, probe: str, seed: int = 0) -> Target:
    """Read and split the target's data; all ranks must call it.

    Raises:
        UsageError: If the data cannot be split, or leave a probe nothing to choose its setting on.
        NotFoundError: If the images are not there.
    """
    if settings.data.validation == 0 and probe != FINETUNE:
        raise UsageError(
            f"data.validation must be greater than 0 for --probe {probe}, whose setting is chosen on it, but"
            " got 0; leave it out."
        )
    return Target(settings, probe, seed, read_split(settings.data))
