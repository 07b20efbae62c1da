"""Progress of a study's trials on a console, with accuracies on the validation part alone."""

from typing import Protocol

from ignite.engine import Engine
from rich.console import Console

from lineage.display.progress import ConsoleReporter, Reporter, SilentReporter, notebook_console
from lineage.formats import quantity
from lineage.registry.family.family import Version


class StudyReporter(Reporter, Protocol):
    """Reporter of a study: of each trial its start, its generations and its end."""

    def begin(self, number: int, values: str) -> None:
        """Report that a trial starts.

        Args:
            number: Number of the trial.
            values: Values that it tries, as text.
        """

    def end(self, outcome: str) -> None:
        """Report how the trial has ended."""

    def remark(self, line: str) -> None:
        """Report an event of the study, such as the death of a worker."""


class SilentStudyReporter(SilentReporter):
    """Reporter that shows nothing."""

    def begin(self, number: int, values: str) -> None:
        """Do nothing."""

    def end(self, outcome: str) -> None:
        """Do nothing."""

    def remark(self, line: str) -> None:
        """Do nothing."""


def default_study_reporter() -> StudyReporter:
    """Return the reporter of a Python program: lines in a notebook, silence elsewhere."""
    console = notebook_console()
    return SilentStudyReporter() if console is None else ConsoleStudyReporter(console)


class ConsoleStudyReporter(ConsoleReporter):
    """Reporter of one line for a trial's start, each generation and its end, with a bar on a terminal.

    Args:
        console: Console to print to.
        worker: Number of the worker that the lines are about; None for the only worker.
    """

    def __init__(self, console: Console, worker: int | None = None) -> None:
        super().__init__(console)
        self._has_bar = console.is_terminal and worker is None
        self._worker = "" if worker is None else f"worker {worker}, "
        self._trial = ""

    def begin(self, number: int, values: str) -> None:
        """Print one line."""
        self._trial = f"{self._worker}trial {number}: "
        self._print(self._trial + values)

    def end(self, outcome: str) -> None:
        """Print one line."""
        self._print(self._trial + outcome)

    def remark(self, line: str) -> None:
        """Print the line."""
        self._print(line)

    def pulled(self, version: Version) -> None:
        """Print one line."""
        self._print(f"{self._trial}generation {version.generation}: {version.uri} holds it already")

    def completed(self, version: Version) -> None:
        """Print one line, in place of the bar."""
        self.forget()
        accuracy = quantity("accuracy", version.metrics.get("validation_accuracy"))
        self._print(
            f"{self._trial}generation {version.generation}: registered {version.uri},"
            f" validation accuracy {accuracy}"
        )

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """Show a bar if this is the only worker on a terminal; a study has too many epochs for lines."""
        self.forget()
        if self._has_bar:
            super().watch(trainer, generation, epochs)

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Show a bar if this is the only worker on a terminal."""
        self.forget()
        if self._has_bar:
            super().watch_views(recorder, views)
