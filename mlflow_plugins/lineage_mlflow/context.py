"""Tags for every MLflow run that is started inside lineage: command, host, packages and git commit.

An entry point of the group ``mlflow.run_context_provider``. MLflow calls ``in_context`` for every run of any
program, so both methods are cheap and import nothing heavy. Training adds its own tags by ``tagging_runs``.
"""

import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from mlflow.tracking.context.abstract_context import RunContextProvider

import lineage

_PACKAGES = ("torch", "torchvision", "pytorch-ignite", "accelerate", "mlflow", "numpy")
_GIT_TIMEOUT = 5  # seconds; git is slow on some network drives


class LineageRunContext(RunContextProvider):
    """Context provider that MLflow calls when a run is created."""

    def in_context(self) -> bool:
        """Return whether this process uses MLflow through lineage."""
        return "lineage.registry.store.connection" in sys.modules

    def tags(self) -> dict[str, str]:
        """Return command line, host, package versions, git commit, and tags of the training in progress."""
        from lineage.registry.store.runs import run_tags

        versions = {f"lineage.version.{name}": number for name, number in _versions().items()}
        process = {
            "lineage.command": shlex.join(sys.argv),
            "lineage.host": platform.node(),
            "lineage.python": platform.python_version(),
        }
        return (
            versions | process | _commit() | {f"lineage.{name}": value for name, value in run_tags().items()}
        )


@cache
def _versions() -> dict[str, str]:
    found = {"lineage": lineage.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> dict[str, str]:
    """Return the commit of the working directory's repository, and whether tracked files differ from it."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return {}
    return {"lineage.git_commit": commit, "lineage.git_dirty": str(bool(changes)).lower()}


def _git(*arguments: str) -> str | None:
    """Return what git prints; None if it is not installed, too slow, or outside a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
