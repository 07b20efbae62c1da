"""What a comparison of lines found: plain values, which ``evaluation`` computes and ``tables`` shows."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
"""Probability with which an interval covers the true difference."""


@dataclass(frozen=True)
class Spread:
    """Several seeds' values of one metric.

    Attributes:
        n: How many; at least 1.
        mean: Of the values.
        deviation: Sample standard deviation (divisor n - 1); None of a single value.
    """

    n: int
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of ``values``, at least one."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(len(values), statistics.fmean(values), deviation)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {"n": self.n, "mean": self.mean, "standard_deviation": self.deviation}


@dataclass(frozen=True)
class Difference:
    """How a line differs from the reference in one generation, seed by seed.

    Attributes:
        pairs: Seeds that both lines have.
        unpaired: Seeds that only one of them has, left out.
        mean: Of the paired differences, line minus reference; None without a pair.
        interval: Confidence interval of the mean; None with fewer than two pairs.
    """

    pairs: int
    unpaired: int
    mean: float | None
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "pairs": self.pairs,
            "unpaired": self.unpaired,
            "mean": self.mean,
            "interval": interval,
            "confidence": CONFIDENCE,
        }


@dataclass(frozen=True)
class Entry:
    """One line in one generation.

    Attributes:
        generation: Index from 0.
        line: Its label.
        spread: Over the seeds.
        difference: From the reference; None for the reference itself.
    """

    generation: int
    line: str
    spread: Spread
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        difference = None if self.difference is None else self.difference.to_json()
        return {
            "generation": self.generation,
            "line": self.line,
            **self.spread.to_json(),
            "difference": difference,
        }


@dataclass(frozen=True)
class Comparison:
    """Lines side by side, generation by generation.

    Attributes:
        metric: What is compared.
        lines: Labels; the first is the reference of all differences.
        entries: By generation, then in the order of ``lines``; none where a line does not reach a generation.
        notes: Sentences on what was left out.
    """

    metric: str
    lines: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """Label of the line that the others are compared with."""
        return self.lines[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "metric": self.metric,
            "lines": list(self.lines),
            "reference": self.reference,
            "entries": [entry.to_json() for entry in self.entries],
            "notes": list(self.notes),
        }
