"""The result of a comparison of lines as plain values: ``evaluation`` computes it, ``tables`` shows it.

A line is the generations that one recipe grew in one registered model, over all its seeds.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
"""Probability with which an interval covers the true difference."""


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of one metric over several seeds.

    Attributes:
        n: Number of values, at least 1.
        mean: Arithmetic mean.
        deviation: Sample standard deviation (divisor n - 1); None for a single value.
    """

    n: int
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of ``values``, of which there must be at least one."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(len(values), statistics.fmean(values), deviation)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {"n": self.n, "mean": self.mean, "standard_deviation": self.deviation}


@dataclass(frozen=True)
class Difference:
    """Difference between a line and the reference in one generation, paired by seed.

    Attributes:
        pairs: Number of seeds that both lines have.
        unpaired: Number of seeds that only one of them has; they are left out.
        mean: Mean of the paired differences, line minus reference; None without a pair.
        interval: Confidence interval of the mean; None with fewer than two pairs.
    """

    pairs: int
    unpaired: int
    mean: float | None
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
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
        line: Label of the line.
        spread: Spread over the seeds.
        difference: Difference from the reference; None for the reference itself.
    """

    generation: int
    line: str
    spread: Spread
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
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
        metric: Name of the metric that is compared.
        lines: Labels of the lines; the first is the reference of all differences.
        entries: Entries by generation, then in the order of ``lines``; none where a line does not reach a
            generation.
        notes: Sentences about what was left out.
    """

    metric: str
    lines: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Comparison by {self.metric} of {', '.join(self.lines)}: {len(self.entries)} entries>"

    @property
    def reference(self) -> str:
        """Return the label of the line that the others are compared with."""
        return self.lines[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        return {
            "metric": self.metric,
            "lines": list(self.lines),
            "reference": self.reference,
            "entries": [entry.to_json() for entry in self.entries],
            "notes": list(self.notes),
        }
