"""Exceptions of ``lineage``, as one tree.

Every message is one sentence that states what must hold, what was found and what to do. The command line
prints it without a traceback and exits with the code of its class::

    LineageError                 1
    ├── TrainingError            1    the loss is not finite
    │   └── LostProcessError     1    one of several processes died or does not respond
    ├── UsageError               2    an argument is invalid
    │   └── RecipeError          2    a recipe is invalid
    ├── NotFoundError            3    a recipe, model version, file or data set does not exist
    ├── IntegrityError           4    content is damaged or unsafe, or an operation was refused to protect it
    │   └── AlteredFilesError    4    files of a version beside its weights are not those registered
    └── RegistryError            5    the MLflow store cannot be reached or written
        └── UnreachableError     5    the store does not answer now
"""

import difflib
from collections.abc import Iterable, Sequence


class LineageError(Exception):
    """Base class of all errors that ``lineage`` raises."""

    exit_code = 1


class TrainingError(LineageError):
    """Training cannot continue: the loss is not finite, or a process was lost."""


class LostProcessError(TrainingError):
    """One of several training processes died or does not respond."""

    untold_exit_code = 75
    """Exit code of a process whose parent reports the death: see ``lineage.processes.LAUNCHED``."""


class UsageError(LineageError):
    """An argument, or a combination of arguments, is invalid."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is invalid: an unknown key, a wrong type, or a value out of range.

    Args:
        message: First problem, with the number of further ones.
        problems: All problems, one sentence each; the message alone by default.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class NotFoundError(LineageError):
    """A recipe, model version, file or data set does not exist."""

    exit_code = 3


class IntegrityError(LineageError):
    """Content is damaged, altered or unsafe to load, or an operation was refused to protect it."""

    exit_code = 4


class AlteredFilesError(IntegrityError):
    """Files of a version are not those that were registered, although its weights are."""


class RegistryError(LineageError):
    """The MLflow store, or the hub that is pushed to, cannot be reached or written."""

    exit_code = 5


class UnreachableError(RegistryError):
    """The MLflow store does not answer now; it may later."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, if one is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
