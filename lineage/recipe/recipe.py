"""The recipe: its sections as one, which is read, changed, digested and written."""

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, ValidationError

from lineage.errors import RecipeError
from lineage.formats import text_digest
from lineage.recipe.problems import describe
from lineage.recipe.sections import (
    DataSettings,
    ModelSettings,
    NetworkSettings,
    PatriarchSettings,
    Section,
    StudentSettings,
    SuccessionSettings,
    TrainingSettings,
)
from lineage.recipe.study import StudySettings

# A name, a repetition, a length, a machine and what is tried: recipes that differ in these alone are one.
_OUTSIDE_DIGEST: dict[str, set[str] | bool] = {
    "model": {"name"},
    "succession": {"seed", "generations"},
    "data": {"root", "download", "workers"},
    "study": True,
}
# Keys that recipes did not always have: at their default they leave a recipe what it was.
_ADDED_LATER = {"student": ("soft_targets", "views", "soft_target_classes"), "training": ("sync_batchnorm",)}

# Names under which keys were first digested and stored, by their present names.
_FIRST_NAMES = {"student": {"soft_targets": "signals", "soft_target_classes": "signal_classes"}}


class Recipe(Section):
    """All that a lineage is grown from: a patriarch, and students in generations."""

    model_config = ConfigDict(title="lineage recipe")

    model: ModelSettings
    data: DataSettings
    network: NetworkSettings
    patriarch: PatriarchSettings
    student: StudentSettings
    training: TrainingSettings
    succession: SuccessionSettings = SuccessionSettings()
    study: StudySettings = StudySettings()

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """The recipe that ``settings``, section by section, stand for.

        Raises:
            RecipeError: If a key is unknown or missing, or a value cannot hold; the first is told.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise RecipeError(describe(error, cls)) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The recipe that ``to_json`` wrote, now or when some keys had other names.

        Raises:
            RecipeError: If ``text`` is no JSON, or no recipe that holds.
        """
        try:
            return cls.from_dict(with_present_names(json.loads(text)))
        except json.JSONDecodeError as error:
            raise RecipeError(f"A resolved recipe must be JSON, but reading it failed: {error}.") from None

    def to_json(self) -> str:
        """The resolved recipe, defaults included, as JSON."""
        return self.model_dump_json(indent=2)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the settings: the same whatever the name, the seed or the machine."""
        settings = self.model_dump(mode="json", exclude=_OUTSIDE_DIGEST)
        for section, keys in _ADDED_LATER.items():
            fields = type(getattr(self, section)).model_fields
            for key in keys:
                if settings[section][key] == fields[key].default:
                    del settings[section][key]
        for section, names in _FIRST_NAMES.items():
            settings[section] = {names.get(key, key): value for key, value in settings[section].items()}
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return text_digest(canonical)


def with_present_names(settings: Any) -> Any:
    """Stored settings, section by section, with each key under the name that it has now."""
    if not isinstance(settings, Mapping):
        return settings
    renamed = dict(settings)
    for section, names in _FIRST_NAMES.items():
        present = {first: name for name, first in names.items()}
        if isinstance(table := renamed.get(section), Mapping):
            renamed[section] = {present.get(key, key): value for key, value in table.items()}
    return renamed


def present_name(dotted: str) -> str:
    """The name that a recipe key, ``section.key``, has now; a stored one may be an earlier one."""
    section, _, key = dotted.partition(".")
    present = {first: name for name, first in _FIRST_NAMES.get(section, {}).items()}
    return f"{section}.{present[key]}" if key in present else dotted


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors that complete and check TOML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
