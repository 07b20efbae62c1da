"""What a study keeps to from its first trial to its last, so that its trials can be compared."""

from typing import Any

from lineage.recipe import Recipe, flatten, present_name
from lineage.studies.space import describe_space

_MACHINE = {"model.name", "data.root", "data.download", "data.workers"}
_IMAGES = "the images are others"


def kept_settings(recipe: Recipe, data_digest: str) -> dict[str, Any]:
    """What is kept, as plain values by ``recipe``, ``space``, ``objective`` and ``data``.

    Args:
        recipe: Resolved, with its space.
        data_digest: Of the images.
    """
    return {
        "recipe": {key: value for key, value in flatten(recipe).items() if key not in _MACHINE},
        "space": describe_space(recipe.study),
        "objective": list(recipe.study.objective),
        "data": data_digest,
    }


def differences(begun: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two such settings, in words such as ``training.epochs was 12 and is 6``."""
    begun = begun | {
        part: {present_name(key): value for key, value in begun[part].items()} for part in ("recipe", "space")
    }
    changes = [
        f"{key} was {_shown(begun[part].get(key))} and is {_shown(now[part].get(key))}"
        for part in ("recipe", "space")
        for key in sorted(begun[part].keys() | now[part].keys())
        if begun[part].get(key) != now[part].get(key)
    ]
    if begun["objective"] != now["objective"]:
        changes.append(f"the objective was {_shown(begun['objective'])} and is {_shown(now['objective'])}")
    return [*changes, _IMAGES] if begun["data"] != now["data"] else changes


def _shown(value: Any) -> str:
    """A value; of a distribution, as Optuna writes it, what it is drawn from."""
    if value is None:
        return "absent"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict) and "attributes" in value:
        inside = value["attributes"]
        if "choices" in inside:
            return f"one of {_shown(inside['choices'])}"
        step = f" in steps of {inside['step']}" if inside.get("step") else ""
        return f"{inside['low']} to {inside['high']}{step}{' by logarithms' if inside['log'] else ''}"
    return str(value)
