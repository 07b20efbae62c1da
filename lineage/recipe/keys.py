"""Recipe keys that a study may vary: their names and types."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from lineage.errors import suggestion
from lineage.recipe.data import AugmentSettings, DataSettings
from lineage.recipe.limits import shortened
from lineage.recipe.renamed import renamed_to
from lineage.recipe.sections import (
    ModelSettings,
    NetworkSettings,
    PatriarchSettings,
    TrainingSettings,
)
from lineage.recipe.student import StudentSettings
from lineage.recipe.succession import SuccessionSettings

_SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "data.augment": AugmentSettings,
    "network": NetworkSettings,
    "patriarch": PatriarchSettings,
    "student": StudentSettings,
    "student.network": NetworkSettings,
    "training": TrainingSettings,
    "succession": SuccessionSettings,
}
_OPTIONS = (
    "data.augment.options.",
    "network.options.",
    "patriarch.options.",
    "student.network.options.",
    "student.options.",
    "training.optimizer_options.",
    "training.schedule_options.",
)
_ONE_FAMILY = {"model.name"}
_IMAGE_KEYS = (
    "name",
    "root",
    "download",
    "test",
    "options",
    "validation",
    "seed",
    "train_samples",
    "subset",
    "image_size",
    "workers",
)
_SAME_IMAGES = {f"data.{key}" for key in _IMAGE_KEYS}


def resolve_key(name: str) -> str:
    """Return the whole name, ``section.key``, of a key that a study may vary.

    Args:
        name: Whole name, or the key alone if one section has a key of that name.

    Raises:
        ValueError: If there is no such key, or it must be the same in all trials.
    """
    known = [f"{section}.{key}" for section, model in _SECTIONS.items() for key in model.model_fields]
    if name.startswith(_OPTIONS) and name not in _OPTIONS:
        return name
    if name.startswith("data.options."):
        name = "data.options"
    found = [name] if name in known else [key for key in known if key.partition(".")[2] == name]
    free = [key for key in found if key not in _ONE_FAMILY | _SAME_IMAGES]
    if len(free) == 1:
        return free[0]
    if free:
        raise ValueError(
            f"'{shortened(name)}' must name one recipe key, but may be {' or '.join(free)}; write it whole."
        )
    if found:
        reason = "all trials are one family" if found[0] in _ONE_FAMILY else "trials share their images"
        raise ValueError(f"{found[0]} must not vary within a study, since {reason}; leave it out.")
    short = [key.partition(".")[2] for key in known]
    renamed = renamed_to(name)
    near = suggestion(renamed or name, known if renamed or "." in name else short)
    raise ValueError(f"Unknown recipe key '{shortened(name)}' in a study's space.{near}")


def number_type(key: str) -> type[float] | type[int] | None:
    """Return the type of the numbers that a recipe key takes; None if it takes none."""
    if key.startswith(_OPTIONS):
        return float
    section, _, name = key.rpartition(".")
    types = _types(_SECTIONS[section].model_fields[name].annotation)
    return float if float in types else int if int in types else None


def takes_integers(key: str, values: Sequence[Any]) -> bool:
    """Return whether the key takes integers; a plug-in's option takes them if all ``values`` are integers."""
    if key.startswith(_OPTIONS):
        return all(isinstance(value, int) for value in values)
    return number_type(key) is int


def _types(annotation: Any) -> set[Any]:
    """Return the plain types that an annotation is made of."""
    parts = get_args(annotation)
    if not parts:
        return {annotation}
    return {found for part in parts for found in _types(part)}
