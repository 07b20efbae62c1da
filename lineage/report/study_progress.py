"""Tells of a study's trials on a console; of accuracies only those on the validation part."""

from typing import Protocol

from ignite.engine import Engine
from rich.console import Console

from lineage.formats import quantity
from lineage.registry.family.family import Version
from lineage.report.progress import ConsoleReporter, Reporter, SilentReporter


class StudyReporter(Reporter, Protocol):
    """What a study tells: of each trial its beginning, its generations and its end."""

    def begin(self, number: int, values: str) -> None:
        """A trial begins with some values."""

    def end(self, outcome: str) -> None:
        """The trial has ended."""

    def remark(self, line: str) -> None:
        """Something happened to the study."""


class SilentStudyReporter(SilentReporter):
    """Tells nothing."""

    def begin(self, number: int, values: str) -> None:
        """Nothing."""

    def end(self, outcome: str) -> None:
        """Nothing."""

    def remark(self, line: str) -> None:
        """Nothing."""


class ConsoleStudyReporter(ConsoleReporter):
    """One line for the beginning of a trial, for each generation and for its end; a bar on a terminal.

    Args:
        console: Where to.
        worker: Number of the worker whose lines these are; None where there is one.
    """

    def __init__(self, console: Console, worker: int | None = None) -> None:
        super().__init__(console)
        self._has_bar = console.is_terminal and worker is None
        self._worker = "" if worker is None else f"worker {worker}, "
        self._trial = ""

    def begin(self, number: int, values: str) -> None:
        """One line."""
        self._trial = f"{self._worker}trial {number}: "
        self._print(self._trial + values)

    def end(self, outcome: str) -> None:
        """One line."""
        self._print(self._trial + outcome)

    def remark(self, line: str) -> None:
        """The line."""
        self._print(line)

    def pulled(self, version: Version) -> None:
        """One line."""
        self._print(f"{self._trial}generation {version.generation}: {version.uri} holds it already")

    def completed(self, version: Version) -> None:
        """One line, in place of the bar."""
        self.forget_bars()
        accuracy = quantity("accuracy", version.metrics.get("validation_accuracy"))
        self._print(
            f"{self._trial}generation {version.generation}: registered {version.uri},"
            f" validation accuracy {accuracy}"
        )

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """A bar, where this is the only worker on a terminal; a study's epochs are too many for lines."""
        self.forget_bars()
        if self._has_bar:
            super().watch(trainer, generation, epochs)

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Likewise."""
        self.forget_bars()
        if self._has_bar:
            super().watch_views(recorder, views)
