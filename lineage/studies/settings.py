"""Settings that a study keeps from its first trial to its last, so that its trials can be compared."""

from typing import Any

from lineage.recipe import Recipe, default_settings, flatten
from lineage.registry.family.family import Version
from lineage.studies.space import describe_space, with_present_names

_OF_THE_MACHINE = {"model.name", "data.root", "data.download", "data.workers"}


def kept_settings(recipe: Recipe, data_digest: str, teacher: Version | None = None) -> dict[str, Any]:
    """Return the settings to keep, as plain values by ``recipe``, ``space``, ``objective`` and ``data``.

    With a teacher, ``teacher`` is its version and its key.

    Args:
        recipe: Resolved recipe with its space.
        data_digest: Digest of the images.
        teacher: Version that teaches all trials; None where each has a patriarch.
    """
    settings = flatten(recipe) | {"data.image_size": recipe.data.recorded_image_size}
    return {
        "recipe": {key: value for key, value in settings.items() if key not in _OF_THE_MACHINE},
        "space": describe_space(recipe.study),
        "objective": list(recipe.study.objective),
        "data": data_digest,
    } | ({} if teacher is None else {"teacher": [teacher.uri, teacher.key]})


def differences(first: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """Return how settings differ from a study's first ones, such as ``training.epochs was 12 and is 6``.

    Args:
        first: Kept settings that the study was begun with; recipe keys may have earlier names.
        present: Kept settings of the command that continues it.
    """
    changes = []
    for part in ("recipe", "space"):
        before, now = with_present_names(first[part]), present[part]
        if part == "recipe":  # of keys that recipes did not have yet the default held
            before = {key: value for key, value in default_settings().items() if key in now} | before
        changes += [
            f"{key} was {_in_words(before.get(key))} and is {_in_words(now.get(key))}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
    if first["objective"] != present["objective"]:
        changes.append(
            f"the objective was {_in_words(first['objective'])} and is {_in_words(present['objective'])}"
        )
    if first["data"] != present["data"]:
        changes.append("the images are others")
    teachers = [kept.get("teacher", ["none", None]) for kept in (first, present)]
    if teachers[0][1] != teachers[1][1]:
        changes.append(f"the teacher was {teachers[0][0]} and is {teachers[1][0]}")
    return changes


def _in_words(value: Any) -> str:
    """Return a value as text; a distribution, as Optuna writes it, as what it is drawn from."""
    if value is None:
        return "absent"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict) and "attributes" in value:
        attributes = value["attributes"]
        if "choices" in attributes:
            return f"one of {_in_words(attributes['choices'])}"
        step = f" in steps of {attributes['step']}" if attributes.get("step") else ""
        scale = " by logarithms" if attributes["log"] else ""
        return f"{attributes['low']} to {attributes['high']}{step}{scale}"
    return str(value)
