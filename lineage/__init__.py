"""Train neural networks in generations and remember the family.

The public names are loaded when they are first used: importing ``lineage`` loads neither torch nor MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage.errors import LineageError
    from lineage.evaluation.diff import Difference, diff
    from lineage.evaluation.ensemble import Ensemble, ensemble
    from lineage.evaluation.evaluate import Evaluation, evaluate, load
    from lineage.evaluation.transfer import transfer
    from lineage.exchange.adopt import adopt
    from lineage.growing.grow import grow
    from lineage.growing.succession import Lineage
    from lineage.registry.family.family import Family, Version
    from lineage.registry.family.lookup import read_family as tree
    from lineage.registry.flavor import LoadedModel
    from lineage.studies.results import StudyResult
    from lineage.studies.study import study

__version__ = "0.1.0"

__all__ = [
    "Difference",
    "Ensemble",
    "Evaluation",
    "Family",
    "Lineage",
    "LineageError",
    "LoadedModel",
    "StudyResult",
    "Version",
    "adopt",
    "diff",
    "ensemble",
    "evaluate",
    "grow",
    "load",
    "study",
    "transfer",
    "tree",
]

_HOMES = {
    "lineage.exchange.adopt": ("adopt",),
    "lineage.evaluation.evaluate": ("Evaluation", "evaluate", "load"),
    "lineage.evaluation.diff": ("Difference", "diff"),
    "lineage.evaluation.ensemble": ("Ensemble", "ensemble"),
    "lineage.errors": ("LineageError",),
    "lineage.growing.grow": ("grow",),
    "lineage.registry.family.family": ("Family", "Version"),
    "lineage.registry.flavor": ("LoadedModel",),
    "lineage.studies.study": ("study",),
    "lineage.studies.results": ("StudyResult",),
    "lineage.growing.succession": ("Lineage",),
    "lineage.evaluation.transfer": ("transfer",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "tree":
        value = importlib.import_module("lineage.registry.family.lookup").read_family
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'lineage' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
