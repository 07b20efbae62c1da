"""``lineage grow``: train a patriarch and its students, or students of a registered version."""

import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from lineage.cli.output import AsJson, Overrides, console_reporter, print_json, print_rich, print_text
from lineage.cli.startup import importing
from lineage.errors import UsageError

if TYPE_CHECKING:
    from lineage.growing.parallel import SeedOutcome
    from lineage.growing.succession import Lineage


RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a shipped recipe, or a TOML file; with --from, the teacher's recipe by default.",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="URI", help="Grow students of this registered version, without a patriarch."
    ),
]
Name = Annotated[str | None, typer.Option(help="Name of the registered model, in place of the recipe's.")]
Generations = Annotated[
    int | None, typer.Option(help="Number of students in the succession, in place of the recipe's.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of weights and sample order, in place of the recipe's.")]
Seeds = Annotated[
    str | None, typer.Option(metavar="A..B", help="Seeds from A to B, both included: one succession each.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Discard the local checkpoints of unfinished generations.")
]
NewData = Annotated[
    bool,
    typer.Option("--new-data", help="Grow though the data have changed since the family was grown on them."),
]
Processes = Annotated[
    int,
    typer.Option(
        min=1, help="Number of processes that train together on this machine, one for each GPU, or on CPUs."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be trained and what is registered; train nothing."),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Grow without the registry, into an outbox on this machine; 'lineage sync' registers it.",
    ),
]
Parallel = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Number of --seeds that grow at the same time, in a process each."),
]


def grow(
    recipe: RecipeName = None,
    teacher: Teacher = None,
    name: Name = None,
    generations: Generations = None,
    seed: Seed = None,
    seeds: Seeds = None,
    overrides: Overrides = None,
    fresh: Fresh = False,
    new_data: NewData = False,
    processes: Processes = 1,
    offline: Offline = False,
    parallel: Parallel = 1,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Grow a patriarch and its students, or students of a registered version.

    Run again, the same command continues an interrupted generation and skips those that are registered.
    """
    _require_one_of_each(seed, seeds, processes, parallel)
    chosen = _parse_seeds(seeds) if seeds is not None else None if seed is None else [seed]
    if dry_run:
        _require_no_other_effect(fresh=fresh, new_data=new_data, offline=offline)
        _print_forecast(recipe, teacher, name, generations, chosen, overrides or (), as_json)
        return
    if processes > 1:
        _launch(processes)
    with importing():
        from lineage.exchange.sync import using_outbox
        from lineage.growing.grow import grow as grow_lineages
        from lineage.growing.parallel import FailedSeedsError, SeedOutcome

    with using_outbox() if offline else nullcontext():
        try:
            with console_reporter() as reporter:
                lineages = grow_lineages(
                    recipe,
                    teacher=teacher,
                    name=name,
                    generations=generations,
                    seeds=chosen,
                    overrides=overrides or (),
                    fresh=fresh,
                    new_data=new_data,
                    parallel=parallel,
                    reporter=reporter,
                )
        except FailedSeedsError as error:
            _print_outcomes(error.outcomes, as_json, offline)
            raise
    _print_outcomes(
        [SeedOutcome(lineage.seed, lineage) for lineage in lineages], as_json, offline, with_ends=parallel > 1
    )


def _require_no_other_effect(**options: bool) -> None:
    """Refuse options that change nothing of what a dry run prints."""
    given = [f"--{name.replace('_', '-')}" for name, is_given in options.items() if is_given]
    if given:
        raise UsageError(
            f"--dry-run trains nothing, so that {given[0]} has no effect; leave out one of the two."
        )


def _print_forecast(
    recipe: str | None,
    teacher: str | None,
    name: str | None,
    generations: int | None,
    seeds: Sequence[int] | None,
    overrides: Sequence[str],
    as_json: bool,
) -> None:
    """Print what the command would do."""
    with importing():
        from lineage.display.forecast import forecast_lines, forecast_table
        from lineage.growing.forecast import forecast

    found = forecast(
        recipe, teacher=teacher, name=name, generations=generations, seeds=seeds, overrides=overrides
    )
    if as_json:
        print_json(found.to_json())
    else:
        print_rich(forecast_table(found))
        print_text("\n".join(forecast_lines(found)))


def grow_worker() -> None:
    """Grow one succession for a process that grows several, and read the job from standard input."""
    with importing():
        from rich.console import Console

        from lineage.display.progress import WorkerReporter
        from lineage.growing.parallel import Job, send_bar, work
        from lineage.growing.worker_processes import receive_job

    job = Job.from_json(receive_job())
    work(job, WorkerReporter(Console(stderr=True), send_bar if job.draws_bars else None))


def _require_one_of_each(seed: int | None, seeds: str | None, processes: int, parallel: int) -> None:
    """Refuse options that exclude each other."""
    if seed is not None and seeds is not None:
        raise UsageError("Either --seed or --seeds may be given, but got both; --seeds 3..3 is one seed.")
    if processes > 1 and parallel > 1:
        raise UsageError(
            f"Either --processes or --parallel may be above 1, but got {processes} and {parallel}; train one"
            " succession with several processes, or several successions with one each."
        )


def _launch(processes: int) -> None:
    """Run this command on several processes, and exit with their exit code."""
    from lineage.training.launching import launch

    sys.exit(launch(processes, "lineage", _without_processes(sys.argv[1:])))


def _without_processes(arguments: list[str]) -> list[str]:
    """Return the command's arguments without ``--processes N``."""
    kept, given = [], iter(arguments)
    for argument in given:
        if argument == "--processes":
            next(given)
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept


def _parse_seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,19})\.\.(\d{1,19})", text)
    if match is None or int(match[2]) < int(match[1]):
        raise UsageError(f"--seeds must read A..B with A not above B, as in 0..4, but got '{text}'.")
    return range(int(match[1]), int(match[2]) + 1)


def _print_outcomes(
    outcomes: "Sequence[SeedOutcome]", as_json: bool, offline: bool, with_ends: bool = True
) -> None:
    """Print the lineages of all seeds in their order, and with ``with_ends`` a table of how each ended."""
    if as_json:
        print_json([_as_json(outcome) for outcome in outcomes])
        return
    _print_lineages([outcome.lineage for outcome in outcomes if outcome.lineage is not None])
    if with_ends:
        from lineage.display.tables import ends_table

        print_rich(ends_table([(outcome.seed, outcome.reason) for outcome in outcomes]))
    if offline:
        print_text("These versions wait in the outbox; 'lineage sync' registers them.")


def _as_json(outcome: "SeedOutcome") -> dict[str, object]:
    lineage = outcome.lineage
    if lineage is None:
        return {"seed": outcome.seed, "error": outcome.reason, "exit_code": outcome.exit_code}
    return {
        "name": lineage.name,
        "seed": lineage.seed,
        "trained": lineage.num_trained,
        "versions": [version.to_json() for version in lineage.versions],
    }


def _print_lineages(lineages: "list[Lineage]") -> None:
    from lineage.display.tables import GENERATIONS_LEGEND, generations_table, seeds_table

    for lineage in lineages:
        known = (
            lineage.versions if lineage.from_version is None else (lineage.from_version, *lineage.versions)
        )
        print_rich(generations_table(lineage.versions, {version.id: version for version in known}))
    if len(lineages) > 1:
        print_rich(seeds_table([lineage.versions for lineage in lineages]))
    if not lineages:
        return
    print_text(GENERATIONS_LEGEND)
    if not any(lineage.num_trained for lineage in lineages):
        print_text("All generations were registered already; nothing was trained.")
