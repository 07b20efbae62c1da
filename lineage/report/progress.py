"""Shows a succession while it grows: a live display on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Protocol, Self

from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lineage.registry.family.family import Version

_SECONDS_BETWEEN_UPDATES = 0.2


class Reporter(Protocol):
    """What a succession tells of itself, on rank 0."""

    def pulled(self, version: Version) -> None:
        """The registry held this generation: it is not trained again."""

    def completed(self, version: Version) -> None:
        """A generation was trained and registered."""

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """A generation's training is about to start, or to resume, on ``trainer``."""

    def watch_views(self, recorder: Engine, views: int) -> None:
        """A teacher is about to look at every view of the training images, on ``recorder``."""

    def notice(self, line: str) -> None:
        """Something is not as one would expect, though the work goes on."""


class SilentReporter:
    """Tells nothing."""

    def pulled(self, version: Version) -> None:
        """Nothing."""

    def completed(self, version: Version) -> None:
        """Nothing."""

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """Nothing."""

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Nothing."""

    def notice(self, line: str) -> None:
        """Nothing."""


class ConsoleReporter:
    """Tells on a console: one line an epoch and a generation, and a live bar where it is a terminal.

    It reads the engines' counters and the records of finished epochs, and never a tensor, so it does not slow
    a GPU.

    Args:
        console: Where to; standard error is the right one, since standard output carries results.
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
        """One line, in place of the bar."""
        self.forget_bars()
        self._print(f"generation {version.generation}: {version.uri} holds it already, not trained again")

    def completed(self, version: Version) -> None:
        """One line, in place of the bar."""
        self.forget_bars()
        accuracy = version.metrics["test_accuracy"]
        self._print(
            f"generation {version.generation}: registered {version.uri}, test accuracy {accuracy:.2%}"
        )

    def forget_bars(self) -> None:
        """Take the bars of generations that ended from the terminal."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        """A bar that moves with the batches, and one line an epoch where there is no terminal."""
        self._follow(trainer, f"generation {generation}", "epoch", epochs)

    def watch_views(self, recorder: Engine, views: int) -> None:
        """Likewise, with a line a view."""
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
        def _tell(engine: Engine) -> None:
            done, numbers = engine.state.epoch, epoch_line(engine.state.metrics)
            self._progress.update(task, completed=done, numbers=numbers, refresh=True)
            if not self.console.is_terminal:
                self._print(", ".join(filter(None, (f"{subject}: {unit} {done}/{total}", numbers))))

    def notice(self, line: str) -> None:
        """The line itself."""
        self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def epoch_line(record: dict[str, float]) -> str:
    """The numbers of an epoch worth watching; "" where there are none."""
    if not record:
        return ""
    parts = [f"loss {record['train_loss']:.3f}"]
    if "validation_accuracy" in record:
        parts.append(f"validation accuracy {record['validation_accuracy']:.2%}")
    parts.append(f"{record['images_per_second']:,.0f} images/s")
    return ", ".join(parts)
