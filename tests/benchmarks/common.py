"""Parts that all benchmarks share: contests between processes that take turns, and rows of tables."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        what: Was measured.
        found: What was found: the median, in its unit.
        spread: Lowest and highest, in the same unit.
        bar: What it is held to; "" where it is only told.
        holds: Whether it holds.
    """

    what: str
    found: str
    spread: str = ""
    bar: str = ""
    holds: bool = True

    def __str__(self) -> str:
        verdict = "" if not self.bar else f"{self.bar} {'✓' if self.holds else '✗'}"
        return f"| {self.what} | {self.found} | {self.spread} | {verdict} |"


def row(
    what: str,
    values: Sequence[float],
    unit: str = "",
    digits: int = 2,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """A row of repeated measurements, held by their median to a bar."""

    def written(value: float) -> str:
        return f"{value:,.{digits}f}{unit}"

    median = statistics.median(values)
    spread = f"{written(min(values))} … {written(max(values))}" if len(values) > 1 else ""
    if at_least is not None:
        return Row(what, written(median), spread, f"≥ {at_least:,g}{unit}", median >= at_least)
    if at_most is not None:
        return Row(what, written(median), spread, f"≤ {at_most:,g}{unit}", median <= at_most)
    return Row(what, written(median), spread)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round: what disturbs a round disturbs both."""
    return [one / other for one, other in zip(above, below, strict=True)]


class Contestant:
    """A process that prepares itself and then does a number of steps when it is told to.

    It works in an empty folder, which goes when it goes.

    Args:
        script: A file beside this one that calls ``compete``.
        arguments: Its own; paths among them absolute.
        environment: Variables beside those of this process.
    """

    def __init__(
        self, script: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._home = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._home.name,
            env=os.environ | dict(environment or {}),
            text=True,
        )
        self._hear("ready")

    def do(self, steps: int) -> float:
        """Seconds that so many steps take."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._hear("done"))

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._home.cleanup()

    def _hear(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(f"@{word}"):
                return line.removeprefix(f"@{word}").strip()
        raise RuntimeError(f"A contestant left with {self._process.wait()} before it was {word}.")


def compete(step: Callable[[int], None]) -> None:
    """Answer the parent: do the steps that it asks for, and say how many seconds they took."""
    _say("@ready")
    for line in sys.stdin:
        started = time.perf_counter()
        step(int(line))
        _say(f"@done {time.perf_counter() - started}")


def hold_contest(
    contestants: Mapping[str, Callable[[], Contestant]], rounds: int, steps: int, warm_up: int
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; they take turns, and only one works at a time."""
    with ExitStack() as stack:
        entered = {name: stack.enter_context(make()) for name, make in contestants.items()}
        for contestant in entered.values():
            contestant.do(warm_up)
        seconds: dict[str, list[float]] = {name: [] for name in entered}
        for _ in range(rounds):
            for name, contestant in entered.items():
                seconds[name].append(contestant.do(steps))
    return seconds


def child(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """What a Python process prints as one line of JSON, last of all."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | dict(environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
