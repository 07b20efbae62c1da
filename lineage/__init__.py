"""Train neural networks in generations and remember the family.

The public names are loaded when they are first used: importing ``lineage`` loads neither torch nor MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage.adoption import adopt
    from lineage.ancestor import Evaluation, evaluate, load
    from lineage.difference import Difference, diff
    from lineage.ensembles import Ensemble, ensemble
    from lineage.errors import LineageError
    from lineage.growth import grow
    from lineage.registry.ancestry import Family, Version
    from lineage.registry.families import read_family as tree
    from lineage.registry.flavor import LoadedModel
    from lineage.studies.conduct import study
    from lineage.studies.results import StudyResult
    from lineage.succession import Lineage
    from lineage.transfers import transfer

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
    "lineage.adoption": ("adopt",),
    "lineage.ancestor": ("Evaluation", "evaluate", "load"),
    "lineage.difference": ("Difference", "diff"),
    "lineage.ensembles": ("Ensemble", "ensemble"),
    "lineage.errors": ("LineageError",),
    "lineage.growth": ("grow",),
    "lineage.registry.ancestry": ("Family", "Version"),
    "lineage.registry.flavor": ("LoadedModel",),
    "lineage.studies.conduct": ("study",),
    "lineage.studies.results": ("StudyResult",),
    "lineage.succession": ("Lineage",),
    "lineage.transfers": ("transfer",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "tree":
        value = importlib.import_module("lineage.registry.families").read_family
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'lineage' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
