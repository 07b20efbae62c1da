"""What an examination of a family finds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be.

    Attributes:
        check: What was looked at, such as ``dangling-teacher``.
        subject: URI of a version, or name of an alias, run or model.
        problem: What must hold and what was found.
        remedy: What completes it, or why that cannot be and what to do.
        repair: Completes it; None where nothing does.
    """

    check: str
    subject: str
    problem: str
    remedy: str
    repair: Callable[[], object] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "check": self.check,
            "subject": self.subject,
            "problem": self.problem,
            "remedy": self.remedy,
            "fixable": self.repair is not None,
        }


@dataclass(frozen=True)
class Diagnosis:
    """What ``examine`` found.

    Attributes:
        name: Of the registered model.
        num_versions: That were examined.
        findings: What is not as it must be.
        fixed: What was not, and is now.
    """

    name: str
    num_versions: int
    findings: tuple[Finding, ...]
    fixed: tuple[Finding, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing is left to find."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "name": self.name,
            "versions": self.num_versions,
            "healthy": self.healthy,
            "findings": [finding.to_json() for finding in self.findings],
            "fixed": [finding.to_json() for finding in self.fixed],
        }
