"""Tags every MLflow run that is started inside lineage with where and how it was started.

An entry point of the group ``mlflow.run_context_provider``: MLflow asks ``in_context`` for every run, of any
program, so both methods are cheap and import nothing heavy.
"""

import platform
import shlex
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from mlflow.tracking.context.abstract_context import RunContextProvider

_PACKAGES = ("lineage", "torch", "torchvision", "pytorch-ignite", "accelerate", "mlflow", "numpy")


class LineageRunContext(RunContextProvider):
    """What MLflow calls when a run is created."""

    def in_context(self) -> bool:
        """Whether this process speaks to MLflow through lineage."""
        return "lineage.registry.store" in sys.modules

    def tags(self) -> dict[str, str]:
        """Command line, host, Python and versions of the packages that weights depend on."""
        versions = {f"lineage.version.{name}": number for name, number in _versions().items()}
        return versions | {
            "lineage.command": shlex.join(sys.argv),
            "lineage.host": platform.node(),
            "lineage.python": platform.python_version(),
        }


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
