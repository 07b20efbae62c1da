"""One generation's settings, and the key that is their digest.

Growing again finds a registered generation by its key, so the key covers everything that changes the weights
and nothing else.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from lineage.data.augmentation import Augmentation, ResizedCrop
from lineage.data.images import MemoryImages
from lineage.data.policies import policy_options
from lineage.evaluation.data import SplitData, augmentation_of
from lineage.extensions import REVISIONS, Source, source_of
from lineage.formats import json_digest
from lineage.growing.optimization import altering_handlers, later_settings
from lineage.models.initial import InitialWeights
from lineage.recipe import Recipe, StudentSettings
from lineage.training.devices import derive_seed
from lineage.training.handlers import schedule_settings
from lineage.training.losses import objective_settings
from lineage.training.optimizers import changed_optimizer_options, optimizer_settings
from lineage.training.soft_target_format import SoftTargetFormat
from lineage.training.student_loss import DEFAULT, distillation_options

STUDENT = "student"

_FIRST_AUGMENTATION = ("crop_padding", "padding_mode", "flip")
SCHEDULE_SETTINGS = {"epochs", "milestones", "gamma", "schedule_options"}
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
"""Training settings that change the weights whatever the optimizer and the schedule are."""


@dataclass(frozen=True)
class GenerationSettings:
    """One generation of a recipe, as its weights depend on it.

    Attributes:
        family_recipe: Resolved recipe of the family.
        split_data: Data set and split that the recipe names.
        generation: Index of the generation, from 0.
        teacher_key: Key of the teacher; None for a patriarch.
        attached: Random word if Python code may change the training; no other generation has its key then.
    """

    family_recipe: Recipe
    split_data: SplitData
    generation: int
    teacher_key: str | None
    attached: str | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as this generation has it, with its own network and settings in place."""
        return self.family_recipe.for_generation(self.generation)

    @property
    def objective(self) -> str:
        """Name of the patriarch's loss, or ``student``."""
        return STUDENT if self.teacher_key else self.recipe.patriarch.objective

    @cached_property
    def loss_settings(self) -> dict[str, Any]:
        """Settings that the generation's loss uses; those of other objectives are left out."""
        if self.teacher_key:
            student = self.recipe.student
            used = {
                "label_weight": student.label_weight_for(self.generation),
                "temperature": student.temperature,
            }
            return used | self._later_student_settings
        return objective_settings(self.objective, self.recipe.patriarch.model_dump())

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss looks at the teacher."""
        return self._needs_logits or (bool(self.teacher_key) and bool(self.recipe.student.terms))

    @property
    def _needs_logits(self) -> bool:
        """Whether the loss looks at the teacher's logits."""
        return bool(self.teacher_key) and self.recipe.student.loss_weight_for(self.generation) > 0

    @property
    def _later_student_settings(self) -> dict[str, Any]:
        """Settings that came later, where they are used and not at their defaults: older keys stay valid."""
        student, generation = self.recipe.student, self.generation
        weight = student.loss_weight_for(generation)
        found: dict[str, Any] = {}
        if weight != 1 - student.label_weight_for(generation):
            found["loss_weight"] = weight
        if self._needs_logits:
            if student.loss != DEFAULT:
                found["loss"] = [student.loss, distillation_options(student.loss, student.options)]
            if student.standardise:
                found["standardise"] = True
        if student.terms:
            found["terms"] = [
                [term.name, term.weight, term.stage, *_revision("term", term.name)]
                + (["differentiate"] if term.differentiate else [])
                for term in student.terms
            ]
        if self.needs_teacher and student.warmup_epochs:
            found["warmup_epochs"] = student.warmup_epochs
        return found

    @cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of everything that the weights depend on and nothing else."""
        depends_on: dict[str, Any] = {
            "data": self._contents,
            "split": self._split,
            "augmentation": self._augmentation_settings,
            "network": [self.recipe.network.name, self.recipe.network.builder_options],
            "training": self._training_settings,
            "objective": [self.objective, self.loss_settings],
            "seed": [self.recipe.succession.seed, self.generation],
            "teacher": self.teacher_key,
        }
        # Settings that came later enter only where they differ from their default: older keys stay valid.
        if self.views_before_repeat is not None:
            depends_on["views"] = self.views_before_repeat
        if self.soft_target_format is not None:
            signals = asdict(self.soft_target_format)
            del signals["explanation"]  # which depends on the teacher, and on terms, alone
            depends_on["signals"] = signals
        if self.recipe.training.sync_batchnorm:
            depends_on["sync_batchnorm"] = True
        if self.initial_weights is not None:
            channels, options = (
                self.split_data.dataset.spec.input_shape[0],
                self.recipe.network.builder_options,
            )
            depends_on["initial_weights"] = self.initial_weights.digest(channels, options)
        depends_on |= later_settings(self.recipe)
        if self._code:
            depends_on["code"] = self._code
        if self.attached is not None:
            depends_on["attached"] = self.attached
        return json_digest(depends_on)

    @property
    def initial_weights(self) -> InitialWeights | None:
        """Weights that the generation starts from; None for random ones."""
        network = self.recipe.network
        if network.weights is None:
            return None
        return InitialWeights(network.name, network.weights, network.strip_prefix or "")

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Code of other packages that the weights depend on, by kind of builder.

        That of data sets is not part of it, since the key holds the digest of their contents.
        """
        found = {kind: source_of(kind, name) for kind, name in self._builders.items()}
        for handler in altering_handlers(self.recipe.training):
            found[f"handler {handler.name}"] = source_of("handler", handler.name)
        return {kind: source for kind, source in found.items() if source is not None}

    @property
    def _code(self) -> dict[str, str | int]:
        """Digests of other packages' code and revisions of our own builders, except those that are 0."""
        revisions = {kind: REVISIONS.get((kind, name), 0) for kind, name in self._builders.items()}
        changed = {kind: revision for kind, revision in revisions.items() if revision}
        return changed | {kind: source.sha256 for kind, source in self.sources.items()}

    @property
    def _builders(self) -> dict[str, str]:
        training = self.recipe.training
        taught = {"distillation": self.recipe.student.loss} if self._needs_logits else {}
        return taught | {
            "network": self.recipe.network.name,
            "objective": self.objective,
            "optimizer": training.optimizer,
            "schedule": training.schedule,
            **({"augmentation": policy} if (policy := self.augmentation.policy) else {}),
        }

    @property
    def views_before_repeat(self) -> int | None:
        """Distinct views a student sees of each image before they repeat; None for one in every epoch."""
        views = self.recipe.student.views
        return views if self.teacher_key and views and views < self.recipe.training.epochs else None

    @property
    def num_views(self) -> int:
        """Number of distinct views that the student sees of each image."""
        return self.views_before_repeat or self.recipe.training.epochs

    @cached_property
    def soft_target_format(self) -> SoftTargetFormat | None:
        """Format of the teacher's stored soft targets; None where there is no teacher or it is run live.

        Raises:
            UsageError: If the recipe stores as many classes as there are, or more.
        """
        student = self.recipe.student
        if not self.teacher_key or student.soft_targets == "live" or self.num_views == 0:
            return None
        return soft_target_format(student, self.split_data.dataset.spec.num_classes)

    @cached_property
    def soft_targets_digest(self) -> str:
        """Digest of what a teacher's stored soft targets depend on, except views and temperature."""
        student = self.recipe.student
        terms = student.terms if student.soft_targets == "stored" else ()  # whose maps are stored as well
        return json_digest(
            {
                "data": self._contents,
                "split": self._split,
                "augmentation": self._augmentation_settings,
                "precision": self.recipe.training.precision,
                "classes": student.soft_target_classes,
            }
            | ({"explanation": [term.stage for term in terms]} if terms else {})
        )

    @property
    def seed(self) -> int:
        """Seed of initial weights, sample order and dropout; differs between generations and successions."""
        return derive_seed("generation", self.recipe.succession.seed, self.generation)

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of the training images."""
        return augmentation_of(self.recipe.data)

    @property
    def _contents(self) -> dict[str, Any]:
        """Description of the data set without its name: the same images give the same key."""
        return asdict(self.split_data.dataset.spec) | {"name": None}

    @property
    def _split(self) -> list[Any]:
        data = self.recipe.data
        split = [data.seed, data.validation, data.train_samples]
        return split if data.subset is None else [*split, data.subset.seed, data.subset.half]

    @property
    def _training_settings(self) -> dict[str, Any]:
        """Training settings that are used; of optimizer and schedule, those that the chosen ones read."""
        given = self.recipe.training.model_dump()
        shape = {name: given[name] for name in SCHEDULE_SETTINGS}
        optimizer = [given["optimizer"], optimizer_settings(given["optimizer"], given)]
        if options := changed_optimizer_options(given["optimizer"], given["optimizer_options"]):
            optimizer.append(options)
        return {name: given[name] for name in ALWAYS_USED} | {
            "optimizer": optimizer,
            "schedule": [given["schedule"], schedule_settings(given["schedule"], shape)],
        }

    @property
    def _augmentation_settings(self) -> dict[str, Any]:
        """Augmentation settings; the padding mode counts only where images are padded."""
        augmentation, images = self.augmentation, self.split_data.dataset.train
        if augmentation.resized_crop == ResizedCrop() and not isinstance(images, MemoryImages):
            augmentation = replace(augmentation, resized_crop=None)  # what streamed images get anyway
        defaults, settings = asdict(Augmentation()), asdict(augmentation)
        # Settings that came later enter only where they are used: older keys stay valid.
        used = {
            name: value
            for name, value in settings.items()
            if name in _FIRST_AUGMENTATION or value != defaults[name]
        }
        if augmentation.policy is not None:
            used.pop("policy_options", None)
            used["policy"] = [
                augmentation.policy,
                policy_options(augmentation.policy, augmentation.policy_options),
            ]
            source = source_of("augmentation", augmentation.policy)
            if source is not None:  # stored soft targets depend on it as well
                used["policy"].append(source.sha256)
        return used if used["crop_padding"] else used | {"padding_mode": None}


def _revision(kind: str, name: str) -> list[int]:
    """Return the revision of a builder of ours; nothing where it is 0."""
    revision = REVISIONS.get((kind, name), 0)
    return [revision] if revision else []


def soft_target_format(student: StudentSettings, num_classes: int) -> SoftTargetFormat:
    """Return the format in which ``student`` wants soft targets of ``num_classes`` classes stored.

    Raises:
        UsageError: If it stores as many classes as there are, or more.
    """
    top = student.soft_target_classes
    return SoftTargetFormat(num_classes, top, None if top is None else student.temperature)
