"""Progress of a growing succession: a live display on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from lineage.formats import printable
from lineage.processes import is_main_process
from lineage.registry.family.family import Version

_SECONDS_BETWEEN_UPDATES = 0.2


@dataclass(frozen=True)
class Bar:
    """How far a training or a recording has come.

    Attributes:
        subject: What is on its way, such as ``generation 1``.
        unit: ``epoch`` or ``view``.
        total: Number of units.
        done: Number of units that are done, with a fraction.
        numbers: Text about the last unit; "" at first.
    """

    subject: str
    unit: str
    total: int
    done: float = 0
    numbers: str = ""


class Reporter(Protocol):
    """Receiver of a succession's progress, on rank 0."""

    @property
    def draws_bars(self) -> bool:
        """Whether it shows bars; if not, other processes send it each epoch as a line."""

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

    def show(self, bar: Bar, row: str) -> None:
        """Report how far one of several successions that grow side by side has come.

        Args:
            bar: State of its generation.
            row: Name of the succession.
        """

    def forget(self, row: str) -> None:
        """Report that a succession has ended, so that no bar stands for it."""


class SilentReporter:
    """Reporter that prints nothing."""

    @property
    def draws_bars(self) -> bool:
        """False."""
        return False

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

    def show(self, bar: Bar, row: str) -> None:
        """Do nothing."""

    def forget(self, row: str) -> None:
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
        self._bars: dict[str, tuple[TaskID, str]] = {}  # task and subject by row

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def pulled(self, version: Version) -> None:
        """Print a line, and take away the bar."""
        self.forget()
        self._print(f"generation {version.generation}: {version.uri} holds it already, not trained again")

    def completed(self, version: Version) -> None:
        """Print a line with the test accuracy, and take away the bar."""
        self.forget()
        accuracy = version.metrics["test_accuracy"]
        self._print(
            f"generation {version.generation}: registered {version.uri}, test accuracy {accuracy:.2%}"
        )

    @property
    def draws_bars(self) -> bool:
        """Whether bars are drawn; if not, each epoch is a line."""
        return self.console.is_terminal

    def show(self, bar: Bar, row: str = "") -> None:
        """Draw a bar where there is a terminal, in place of the last one of the same row."""
        task, subject = self._bars.get(row, (None, ""))
        name = f"{row}: {bar.subject}" if row else bar.subject
        if task is None:
            task = self._progress.add_task(name, total=bar.total, unit=bar.unit, numbers=bar.numbers)
        elif subject != bar.subject:
            self._progress.reset(task, total=bar.total, description=name)  # and estimate its time anew
        self._bars[row] = task, bar.subject
        is_whole = bar.done == int(bar.done)
        self._progress.update(task, completed=bar.done, unit=bar.unit, numbers=bar.numbers, refresh=is_whole)

    def forget(self, row: str = "") -> None:
        """Take away the bar of a row."""
        task, _ = self._bars.pop(row, (None, ""))
        if task is not None:
            self._progress.remove_task(task)

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """Show a bar that moves with the batches; without a terminal, print a line for each epoch."""
        self._follow(trainer, f"generation {generation}", "epoch", epochs)

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Show a bar that moves with the batches; without a terminal, print a line for each view."""
        self._follow(recorder, "teacher's soft targets", "view", views)

    def _follow(self, engine: Engine, subject: str, unit: str, total: int) -> None:
        bar = Bar(subject, unit, total)
        shown = 0.0
        self.show(bar)

        @engine.on(Events.STARTED)
        def _resume(engine: Engine) -> None:
            if engine.state.epoch:
                self._print(f"{subject}: resumed after {unit} {engine.state.epoch} of {total}")

        @engine.on(Events.ITERATION_COMPLETED)
        def _advance(engine: Engine) -> None:
            nonlocal bar, shown
            if time.monotonic() - shown > _SECONDS_BETWEEN_UPDATES:
                shown = time.monotonic()
                done = engine.state.iteration / (engine.state.epoch_length or 1)
                bar = replace(bar, done=round(done, 1))
                self.show(bar)

        @engine.on(Events.EPOCH_COMPLETED)
        def _print_epoch(engine: Engine) -> None:
            nonlocal bar
            done, numbers = engine.state.epoch, epoch_line(engine.state.metrics)
            bar = replace(bar, done=done, numbers=numbers)
            self.show(bar)
            if not self.draws_bars:
                self._print(", ".join(filter(None, (f"{subject}: {unit} {done}/{total}", numbers))))

    def notice(self, line: str) -> None:
        """Print the line."""
        self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


class WorkerReporter(ConsoleReporter):
    """Reporter of a worker process, whose lines and bars another process shows.

    Args:
        console: Console to print lines to.
        send: Callback for the state of a bar; None where that process draws none, and epochs are lines.
    """

    def __init__(self, console: Console, send: Callable[[Bar], None] | None) -> None:
        super().__init__(console)
        self._send = send

    @property
    def draws_bars(self) -> bool:
        """Whether the other process draws bars."""
        return self._send is not None

    def show(self, bar: Bar, row: str = "") -> None:
        """Send the bar."""
        if self._send is not None:
            self._send(bar)


def notebook_console() -> Console | None:
    """Return a console for plain lines below the running cell of a notebook; None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel") or not is_main_process():
        return None
    return Console(file=sys.stdout, force_jupyter=False, force_terminal=False)


def default_reporter() -> Reporter:
    """Return the reporter of a Python program: lines in a notebook, silence elsewhere."""
    console = notebook_console()
    return SilentReporter() if console is None else ConsoleReporter(console)


def epoch_line(record: dict[str, float]) -> str:
    """Return loss, validation accuracy and speed of an epoch as text; "" for an empty record."""
    if not record:
        return ""
    parts = [f"loss {record['train_loss']:.3f}"]
    if "validation_accuracy" in record:
        parts.append(f"validation accuracy {record['validation_accuracy']:.2%}")
    parts.append(f"{record['images_per_second']:,.0f} images/s")
    return ", ".join(parts)
