"""Train neural networks in generations and remember the family.

The public names are loaded when they are first used: importing ``lineage`` loads neither torch nor MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage.ancestor import Evaluation, evaluate, load
    from lineage.errors import LineageError
    from lineage.registry.ancestry import Family, Version
    from lineage.registry.flavor import LoadedModel
    from lineage.registry.versions import read_family as tree
    from lineage.succession import Lineage, grow

__version__ = "0.1.0"

__all__ = [
    "Evaluation",
    "Family",
    "Lineage",
    "LineageError",
    "LoadedModel",
    "Version",
    "evaluate",
    "grow",
    "load",
    "tree",
]

_HOMES = {
    "Evaluation": ("lineage.ancestor", "Evaluation"),
    "Family": ("lineage.registry.ancestry", "Family"),
    "Lineage": ("lineage.succession", "Lineage"),
    "LineageError": ("lineage.errors", "LineageError"),
    "LoadedModel": ("lineage.registry.flavor", "LoadedModel"),
    "Version": ("lineage.registry.ancestry", "Version"),
    "evaluate": ("lineage.ancestor", "evaluate"),
    "grow": ("lineage.succession", "grow"),
    "load": ("lineage.ancestor", "load"),
    "tree": ("lineage.registry.versions", "read_family"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lineage' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
