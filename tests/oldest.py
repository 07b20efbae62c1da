"""Print the lowest version of each dependency that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def constraints(requirements: Iterable[str]) -> list[str]:
    """Return ``name==version`` for each requirement with a lower bound."""
    found = (re.match(r"([\w-]+)(?:\[[\w,-]+\])?>=([\d.]+)", requirement) for requirement in requirements)
    return sorted({f"{match[1]}=={match[2]}" for match in found if match})


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = [requirement for group in project["optional-dependencies"].values() for requirement in group]
    print("\n".join(constraints([*project["dependencies"], *extras])))  # noqa: T201
