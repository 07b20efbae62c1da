"""What can go wrong, as one tree.

Every message is one sentence that says what must hold, what was found and what to do. The command line prints
it without a traceback and leaves with the exit code of its class::

    LineageError                 1
    ├── TrainingError            1    a loss that is not finite
    │   └── LostProcessError     1    one of several processes died or does not answer
    ├── UsageError               2    an argument that cannot hold
    │   └── RecipeError          2    a recipe that cannot hold
    ├── NotFoundError            3    a recipe, model version, file or data set that is not there
    ├── IntegrityError           4    what is there is not what was promised; a refusal to protect it
    └── RegistryError            5    the store cannot be reached or written
"""

import difflib
from collections.abc import Iterable


class LineageError(Exception):
    """The root: whatever ``lineage`` raises on purpose."""

    exit_code = 1


class TrainingError(LineageError):
    """Training cannot go on: the loss is not finite, or a process was lost."""


class LostProcessError(TrainingError):
    """One of several processes died or does not answer the others."""

    untold_exit_code = 75
    """Of a process whose parent knows better who died, and tells it: see ``lineage.processes.LAUNCHED``."""


class UsageError(LineageError):
    """An argument or a combination of arguments that cannot hold."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot hold: an unknown key, a wrong type, a value out of range."""


class NotFoundError(LineageError):
    """A recipe, model version, file or data set that is not there."""

    exit_code = 3


class IntegrityError(LineageError):
    """What is there is not what was promised, or an operation was refused to protect it."""

    exit_code = 4


class RegistryError(LineageError):
    """The MLflow store cannot be reached or written."""

    exit_code = 5


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, if one is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
