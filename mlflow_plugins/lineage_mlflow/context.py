"""Tags every MLflow run that is started inside lineage with where, how and in what it was started.

An entry point of the group ``mlflow.run_context_provider``: MLflow asks ``in_context`` for every run, of any
program, so both methods are cheap and import nothing heavy. What grows says itself what is true of its runs.
"""

import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from mlflow.tracking.context.abstract_context import RunContextProvider

_PACKAGES = ("lineage", "torch", "torchvision", "pytorch-ignite", "accelerate", "mlflow", "numpy")
_PATIENCE = 5  # seconds that git may take: on a slow network drive it may take long


class LineageRunContext(RunContextProvider):
    """What MLflow calls when a run is created."""

    def in_context(self) -> bool:
        """Whether this process speaks to MLflow through lineage."""
        return "lineage.registry.store.connection" in sys.modules

    def tags(self) -> dict[str, str]:
        """Command line, host, Python, packages, git's commit, and what grows: recipe, devices, processes."""
        from lineage.registry.store.runs import run_tags

        versions = {f"lineage.version.{name}": number for name, number in _versions().items()}
        own = {
            "lineage.command": shlex.join(sys.argv),
            "lineage.host": platform.node(),
            "lineage.python": platform.python_version(),
        }
        return versions | own | _commit() | {f"lineage.{name}": value for name, value in run_tags().items()}


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> dict[str, str]:
    """Commit of the repository that the process was started in, and whether tracked files differ from it."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return {}
    return {"lineage.git_commit": commit, "lineage.git_dirty": str(bool(changes)).lower()}


def _git(*arguments: str) -> str | None:
    """What git prints; None where it is not installed, too slow, or there is no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
