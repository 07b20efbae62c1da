"""Contests between processes that take turns, and rows of the result tables."""

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
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One row of a result table.

    Attributes:
        title: Name of the measurement.
        median: Median with its unit.
        spread: Lowest and highest value, with the unit.
        bar: Limit that the median must keep; "" for none.
        holds: Whether the median keeps it.
    """

    title: str
    median: str
    spread: str = ""
    bar: str = ""
    holds: bool = True

    def __str__(self) -> str:
        verdict = "" if not self.bar else f"{self.bar} {'✓' if self.holds else '✗'}"
        return f"| {self.title} | {self.median} | {self.spread} | {verdict} |"


def row(
    title: str,
    values: Sequence[float],
    unit: str = "",
    digits: int = 2,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """Return a row of repeated measurements, whose median must keep a limit."""

    def with_unit(value: float) -> str:
        return f"{value:,.{digits}f}{unit}"

    median = statistics.median(values)
    spread = f"{with_unit(min(values))} … {with_unit(max(values))}" if len(values) > 1 else ""
    if at_least is not None:
        return Row(title, with_unit(median), spread, f"≥ {at_least:,g}{unit}", median >= at_least)
    if at_most is not None:
        return Row(title, with_unit(median), spread, f"≤ {at_most:,g}{unit}", median <= at_most)
    return Row(title, with_unit(median), spread)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each round: a disturbance of the machine slows both sides of a round."""
    return [one / other for one, other in zip(above, below, strict=True)]


class Contestant:
    """A process that prepares itself, then does as many steps as it is asked for.

    It works in an empty folder, which is deleted at the end.

    Args:
        script: Name of a file beside this one that calls ``compete``.
        arguments: Arguments of the script; paths among them must be absolute.
        environment: Variables to add to those of this process.
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
        self._await("ready")

    def do(self, steps: int) -> float:
        """Return the seconds that a number of steps takes."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._await("done"))

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._home.cleanup()

    def _await(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(f"@{word}"):
                return line.removeprefix(f"@{word}").strip()
        raise RuntimeError(f"A contestant left with {self._process.wait()} before it was {word}.")


def compete(step: Callable[[int], None]) -> None:
    """Answer the parent: do the steps that it asks for, and report how many seconds they took."""
    _print_line("@ready")
    for line in sys.stdin:
        started = time.perf_counter()
        step(int(line))
        _print_line(f"@done {time.perf_counter() - started}")


def hold_contest(
    contestants: Mapping[str, Callable[[], Contestant]], rounds: int, steps: int, warm_up: int
) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round; only one works at a time."""
    with ExitStack() as stack:
        entered = {name: stack.enter_context(make()) for name, make in contestants.items()}
        for contestant in entered.values():
            contestant.do(warm_up)
        seconds: dict[str, list[float]] = {name: [] for name in entered}
        for _ in range(rounds):
            for name, contestant in entered.items():
                seconds[name].append(contestant.do(steps))
    return seconds


def child(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run Python code in a process, and return the JSON object in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | dict(environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    numbers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
