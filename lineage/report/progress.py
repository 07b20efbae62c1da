"""Progress of a growing succession: a live display on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Protocol, Self

from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lineage.formats import printable
from lineage.registry.family.family import Version

_SECONDS_BETWEEN_UPDATES = 0.2


class Reporter(Protocol):
    """Receiver of a succession's progress, on rank 0."""

    def pulled(self, version: Version) -> None:
        """Report a generation that the registry holds already, so that it is not trained."""

    def completed(self, version: Version) -> None:
        """Report a generation that was trained and registered."""

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """Follow the training of a generation, which ``trainer`` is about to start or to resume."""

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Follow the recording of a teacher's soft targets on ``recorder``, view by view."""

    def notice(self, line: str) -> None:
        """Report something unexpected that does not stop the work."""


class SilentReporter:
    """Reporter that prints nothing."""

    def pulled(self, version: Version) -> None:
        """Do nothing."""

    def completed(self, version: Version) -> None:
        """Do nothing."""

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """Do nothing."""

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Do nothing."""

    def notice(self, line: str) -> None:
        """Do nothing."""


class ConsoleReporter:
    """Reporter that prints one line for each epoch and generation, or a live bar on a terminal.

    It reads the engines' counters and the metrics of finished epochs, never a tensor, so no GPU waits for it.

    Args:
        console: Console to print to: standard error, since standard output is for results.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[unit]}"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def pulled(self, version: Version) -> None:
        """Print a line, and take away the bar."""
        self.forget_bars()
        self._print(f"generation {version.generation}: {version.uri} holds it already, not trained again")

    def completed(self, version: Version) -> None:
        """Print a line with the test accuracy, and take away the bar."""
        self.forget_bars()
        accuracy = version.metrics["test_accuracy"]
        self._print(
            f"generation {version.generation}: registered {version.uri}, test accuracy {accuracy:.2%}"
        )

    def forget_bars(self) -> None:
        """Take away the bars of generations that have ended."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """Show a bar that moves with the batches; without a terminal, print a line for each epoch."""
        self._follow(trainer, f"generation {generation}", "epoch", epochs)

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Show a bar that moves with the batches; without a terminal, print a line for each view."""
        self._follow(recorder, "teacher's soft targets", "view", views)

    def _follow(self, engine: Engine, subject: str, unit: str, total: int) -> None:
        task = self._progress.add_task(subject, total=total, unit=unit, numbers="")
        shown = 0.0

        @engine.on(Events.STARTED)
        def _resume(engine: Engine) -> None:
            if engine.state.epoch:
                self._print(f"{subject}: resumed after {unit} {engine.state.epoch} of {total}")

        @engine.on(Events.ITERATION_COMPLETED)
        def _advance(engine: Engine) -> None:
            nonlocal shown
            if time.monotonic() - shown > _SECONDS_BETWEEN_UPDATES:
                shown = time.monotonic()
                done = engine.state.iteration / (engine.state.epoch_length or 1)
                self._progress.update(task, completed=round(done, 1))

        @engine.on(Events.EPOCH_COMPLETED)
        def _print_epoch(engine: Engine) -> None:
            done, numbers = engine.state.epoch, epoch_line(engine.state.metrics)
            self._progress.update(task, completed=done, numbers=numbers, refresh=True)
            if not self.console.is_terminal:
                self._print(", ".join(filter(None, (f"{subject}: {unit} {done}/{total}", numbers))))

    def notice(self, line: str) -> None:
        """Print the line."""
        self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def epoch_line(record: dict[str, float]) -> str:
    """Return loss, validation accuracy and speed of an epoch as text; "" for an empty record."""
    if not record:
        return ""
    parts = [f"loss {record['train_loss']:.3f}"]
    if "validation_accuracy" in record:
        parts.append(f"validation accuracy {record['validation_accuracy']:.2%}")
    parts.append(f"{record['images_per_second']:,.0f} images/s")
    return ", ".join(parts)
