"""The recipe: all sections as one model, which is validated, digested and written."""

import json
from typing import Any, Self

from pydantic import ConfigDict, model_validator

from lineage.errors import RecipeError
from lineage.formats import text_digest
from lineage.recipe.data import MOST_WORKERS, DataSettings
from lineage.recipe.limits import require_size, shortened
from lineage.recipe.problems import ProblemsError
from lineage.recipe.renamed import with_first_names, with_present_names
from lineage.recipe.sections import (
    ModelSettings,
    NetworkSettings,
    PatriarchSettings,
    Sections,
    TrainingSettings,
)
from lineage.recipe.student import StudentSettings
from lineage.recipe.study import StudySettings
from lineage.recipe.succession import SuccessionSettings

# Name, seed, length, machine and study: recipes that differ in these alone have one digest.
_OUTSIDE_DIGEST: dict[str, set[str] | bool] = {
    "model": {"name"},
    "succession": {"seed", "generations"},
    "data": {"root", "download", "workers"},
    "study": True,
}
# Keys that the first recipes did not have: at their defaults they must not change a digest.
_ADDED_LATER = {
    "data": ("test", "options", "subset", "augment"),
    "patriarch": ("options",),
    "network": ("weights", "strip_prefix"),
    "student": (
        "soft_targets",
        "views",
        "soft_target_classes",
        "loss",
        "options",
        "loss_weight",
        "standardise",
        "warmup_epochs",
        "terms",
        "network",
    ),
    "succession": ("student",),
    "training": (
        "sync_batchnorm",
        "freeze_stages",
        "layer_decay",
        "optimizer_options",
        "handlers",
        "patience",
        "validate_every",
        "balance_classes",
        "schedule_options",
    ),
}


class Recipe(Sections):
    """A recipe for a family: a patriarch, and students that each learn from the generation before."""

    model_config = ConfigDict(title="lineage recipe")

    model: ModelSettings
    data: DataSettings
    network: NetworkSettings
    patriarch: PatriarchSettings
    student: StudentSettings
    training: TrainingSettings
    succession: SuccessionSettings = SuccessionSettings()
    study: StudySettings = StudySettings()

    @model_validator(mode="after")
    def _require_validation(self) -> Self:
        for key in ("patience", "validate_every"):
            if self.data.validation == 0 and not self.training.is_default(key):
                raise ValueError(
                    f"training.{key} needs a validation part, but data.validation is 0; set it to 0.1, or"
                    f" leave training.{key} out."
                )
        return self

    @model_validator(mode="after")
    def _require_weights(self) -> Self:
        students = [self.student.network, *(own.network for own in self.succession.student)]
        if any(network is not None and network.has_weights for network in (self.network, *students)):
            return self
        for key in ("freeze_stages", "layer_decay"):
            if not self.training.is_default(key):
                raise ValueError(
                    f"training.{key} is for networks that start from weights, but none does; set"
                    f" network.weights, or leave training.{key} out."
                )
        return self

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe that ``to_json`` wrote, in this version or before some keys were renamed.

        Raises:
            RecipeError: If ``text`` is not JSON, or not a valid recipe.
        """
        require_size(text, "the resolved one")
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecipeError(f"A resolved recipe must be JSON, but reading it failed: {error}.") from None
        except (RecursionError, ValueError):  # int() refuses numbers of thousands of digits
            raise RecipeError(
                "A resolved recipe must be JSON, but this one is nested too deeply, or a number in it has"
                " too many digits."
            ) from None
        if not isinstance(settings, dict):
            raise RecipeError(
                f"A recipe must be a table of keys, but the resolved one is {shortened(repr(settings))}."
            )
        data = settings.get("data")
        if isinstance(data, dict) and isinstance(data.get("workers"), int):
            data["workers"] = min(data["workers"], MOST_WORKERS)
        return cls.from_dict(with_present_names(settings), stored=True)

    def to_json(self) -> str:
        """Return the recipe as JSON, defaults included."""
        return self.model_dump_json(indent=2)

    def for_generation(self, generation: int) -> Self:
        """Return the recipe as one generation has it: its network in [network], its own settings in place.

        What is said of other generations is left out, but lists of weights stay whole. A patriarch has
        [network], whatever its students have.

        Args:
            generation: Index of the generation, from 0.
        """
        student, training = self.student.model_copy(update={"network": None}), self.training
        network = (self.student.network or self.network) if generation else self.network
        for own in self.succession.student:
            if own.generation == generation:
                network = own.network or network
                if own.label_weight is not None:
                    student = student.with_label_weight(own.label_weight, generation)
                if own.epochs is not None:
                    training = training.model_copy(update={"epochs": own.epochs})
        return self.model_copy(
            update={
                "network": network,
                "student": student,
                "training": training,
                "succession": self.succession.model_copy(update={"student": ()}),
            }
        )

    @property
    def distinct_generations(self) -> list[int]:
        """Generations whose settings show all that any has: patriarch, first student, and exceptions."""
        students = {1} if self.succession.generations else set()
        return sorted({0, *students, *(own.generation for own in self.succession.student)})

    def require_reached(self, last: int) -> None:
        """Refuse settings of a generation that is not grown.

        Args:
            last: Last generation that is.

        Raises:
            RecipeError: If succession.student names a later one.
        """
        beyond = max((own.generation for own in self.succession.student), default=0)
        if beyond > last:
            raise RecipeError(
                f"succession.student must name generations from 1 to {last}, the last one that is grown, but"
                f" has {beyond}; leave it out, or grow more with succession.generations."
            )

    @model_validator(mode="after")
    def _check_own_settings(self) -> Self:
        own = [self.for_generation(student.generation) for student in self.succession.student]
        sections = [section for recipe in own for section in (recipe.student, recipe.training)]
        if problems := [problem for section in sections for problem in section.contradictions()]:
            raise ProblemsError(problems)
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the settings in hexadecimal, which does not depend on name, seed, length or machine."""
        settings = self.model_dump(mode="json", exclude=_OUTSIDE_DIGEST)
        settings["data"]["image_size"] = self.data.recorded_image_size
        if self.data.augment is not None:  # later keys of the table change no digest either
            settings["data"]["augment"] = self.data.augment.model_dump(mode="json", exclude_defaults=True)
        for section, keys in _ADDED_LATER.items():
            for key in keys:
                if getattr(self, section).is_default(key):
                    del settings[section][key]
        for term in settings["student"].get("terms", ()):
            if not term["differentiate"]:
                del term["differentiate"]
        if self.student.network is not None:
            network = self.student.network.model_dump(mode="json", exclude_defaults=True)
            settings["student"]["network"] = network
        if self.succession.student:
            settings["succession"]["student"] = [
                own.model_dump(mode="json", exclude_defaults=True)
                for own in sorted(self.succession.student, key=lambda own: own.generation)
            ]
        canonical = json.dumps(with_first_names(settings), sort_keys=True, separators=(",", ":"))
        return text_digest(canonical)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors that complete and check TOML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
