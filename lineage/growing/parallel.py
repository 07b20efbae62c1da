"""Several successions of one family side by side, each in a worker process of its own."""

import contextlib
import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from lineage.data.shared import load_shared, share
from lineage.display.progress import Bar, Reporter
from lineage.errors import LineageError
from lineage.evaluation.data import SplitData, split_dataset
from lineage.formats import counted
from lineage.growing.plan import read_split_data
from lineage.growing.succession import Lineage, Succession
from lineage.growing.worker_processes import read_message, run_workers, send_message
from lineage.recipe import Recipe
from lineage.registry.family.family import Family, Version
from lineage.registry.family.lookup import find_version, read_family
from lineage.training.devices import make_accelerator

COMMAND = "grow-worker"

_INTERRUPTED = 130
_ERROR = "Error: "  # how the command line begins the sentence of a LineageError


@dataclass(frozen=True)
class Job:
    """Task of a worker process.

    Attributes:
        recipe: Resolved recipe of the succession, as JSON.
        teacher: URI of the version that teaches the first student; None for a patriarch.
        fresh: Whether to drop unfinished local state first.
        data: Descriptor of the file that holds the data set; None if it is streamed.
        draws_bars: Whether the process that started this one draws bars.
    """

    recipe: str
    teacher: str | None
    fresh: bool
    data: int | None
    draws_bars: bool

    def to_json(self) -> str:
        """Return the job as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a job that ``to_json`` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class SeedOutcome:
    """How the succession of one seed ended.

    Attributes:
        seed: Seed of the succession.
        lineage: Its generations; None if it failed.
        reason: Sentence that says why it failed; "" if it did not.
        exit_code: Exit code of the command line for that failure; 0 if there was none.
    """

    seed: int
    lineage: Lineage | None
    reason: str = ""
    exit_code: int = 0


class FailedSeedsError(LineageError):
    """Some of several successions failed; the others are registered.

    Its exit code is the highest of theirs.

    Args:
        outcomes: Outcomes of all seeds, in their order.
    """

    def __init__(self, outcomes: Sequence[SeedOutcome]) -> None:
        failed = [outcome for outcome in outcomes if outcome.lineage is None]
        seeds = ", ".join(str(outcome.seed) for outcome in failed)
        super().__init__(
            f"All {counted(len(outcomes), 'succession')} must be grown to its end, but {len(failed)} failed,"
            f" of seed {seeds} ({failed[0].reason.rstrip('.')}); run the same command again, it continues."
        )
        self.outcomes = tuple(outcomes)
        self.exit_code = max(outcome.exit_code for outcome in failed)


def grow_side_by_side(
    recipes: Sequence[Recipe],
    split_data: SplitData,
    from_version: Version | None,
    fresh: bool,
    at_once: int,
    reporter: Reporter,
) -> list[SeedOutcome]:
    """Grow a succession of each recipe in a process of its own, some at once; one that fails stops no other.

    Args:
        recipes: Resolved recipes of one family, which differ in their seed.
        split_data: Data of all of them; images in memory are shared with the processes.
        from_version: Version that teaches the first students; None for patriarchs.
        fresh: Whether to drop unfinished local state first.
        at_once: Number of processes at the same time.
        reporter: Reporter of lines and bars.

    Returns:
        One outcome a recipe.

    Raises:
        KeyboardInterrupt: If this process is interrupted; all successions can be continued.
    """
    listener = _Listener(recipes, reporter)
    with contextlib.ExitStack() as stack:
        file = share(split_data.dataset)
        data = None if file is None else stack.enter_context(file).fileno()
        teacher = None if from_version is None else from_version.uri
        jobs = [
            Job(recipe.to_json(), teacher, fresh, data, reporter.draws_bars).to_json() for recipe in recipes
        ]
        files = () if data is None else (data,)
        codes = run_workers(COMMAND, jobs, at_once, listener.ended, listener.hear, files)
    return listener.outcomes(codes, from_version)


def work(job: Job, reporter: Reporter) -> None:
    """Grow one succession, and tell the process that started this one of its versions.

    Args:
        job: The succession, as that process described and checked it.
        reporter: Reporter of its progress.
    """
    recipe = Recipe.from_json(job.recipe)
    make_accelerator(recipe.training.precision, sync_batchnorm=recipe.training.sync_batchnorm)
    if job.data is None:
        split_data = read_split_data(recipe)
    else:
        split_data = split_dataset(load_shared(job.data), recipe.data)
    teacher = None if job.teacher is None else find_version(job.teacher)
    lineage = Succession(recipe, split_data, reporter, job.fresh, teacher).run()
    send_message(
        {"versions": [version.id for version in lineage.versions], "num_trained": lineage.num_trained}
    )


def send_bar(bar: Bar) -> None:
    """Send the state of a bar to the process that started this one."""
    send_message({"bar": asdict(bar)})


class _Listener:
    """Listens to the worker processes of several seeds.

    Args:
        recipes: Recipe of each process.
        reporter: Reporter of lines and bars.
    """

    def __init__(self, recipes: Sequence[Recipe], reporter: Reporter) -> None:
        self._recipes = recipes
        self._reporter = reporter
        self._results: dict[int, dict[str, Any]] = {}
        self._last: dict[int, str] = {}
        self._errors: dict[int, str] = {}

    def hear(self, index: int, line: str) -> None:
        """Show what a process printed; its result, and an error that ends it, are kept for the end."""
        text, message = read_message(line)
        if text or message is None:
            self._hear_text(index, text)
        if message is None:
            return
        if "bar" in message:
            self._reporter.show(Bar(**message["bar"]), self._row(index))
        else:
            self._results[index] = message

    def _hear_text(self, index: int, text: str) -> None:
        """Show a line, unless it may be the error that ends the process, which ``ended`` shows."""
        self._last[index] = text or self._last.get(index, "")
        shown: str | None = text
        if text.startswith(_ERROR):
            shown = self._errors.get(index)  # it was not the last
            self._errors[index] = text
        if shown is not None:
            self._reporter.notice(f"{self._row(index)}: {shown}")

    def ended(self, index: int, code: int) -> None:
        """Report that a process has ended, and how."""
        self._reporter.forget(self._row(index))
        if self._has_failed(index, code):
            self._reporter.notice(f"{self._row(index)}: failed: {self._reason(index, code)}")
        else:
            self._reporter.notice(f"{self._row(index)}: done")

    def outcomes(self, codes: Sequence[int], from_version: Version | None) -> list[SeedOutcome]:
        """Return the outcome of each process, once all have ended with these exit codes."""
        name = self._recipes[0].model.name
        family = read_family(name) if self._results else Family(name, ())
        found = []
        for index, (recipe, code) in enumerate(zip(self._recipes, codes, strict=True)):
            seed = recipe.succession.seed
            if self._has_failed(index, code):
                failure = code if code > 0 else LineageError.exit_code
                found.append(SeedOutcome(seed, None, self._reason(index, code), failure))
            else:
                result = self._results[index]
                versions = (family.with_id(version_id) for version_id in result["versions"])
                present = tuple(version for version in versions if version is not None)
                lineage = Lineage(name, seed, present, result["num_trained"], from_version)
                found.append(SeedOutcome(seed, lineage))
        return found

    def _row(self, index: int) -> str:
        return f"seed {self._recipes[index].succession.seed}"

    def _has_failed(self, index: int, code: int) -> bool:
        return code != 0 or index not in self._results

    def _reason(self, index: int, code: int) -> str:
        """Return why a process failed, in one sentence."""
        if code < 0:
            return f"Its process must live until the end, but died of {signal.Signals(-code).name}."
        if code == _INTERRUPTED:
            return "Its process must live until the end, but was interrupted."
        if code > 0 and index in self._errors:
            return self._errors[index].removeprefix(_ERROR)
        last = self._last.get(index, "")
        return f"Its process must end with 0, but ended with {code}; it said last: {last or 'nothing'}"
