"""``lineage study`` and ``lineage study-report``: Optuna over variants of a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineage.cli.output import AsJson, Overrides, print_json, print_rich, print_text
from lineage.cli.startup import importing
from lineage.errors import UsageError

if TYPE_CHECKING:
    from lineage.studies.results import StudyResult

Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="URL of the database of studies; by default $LINEAGE_STUDIES, or else sqlite:///studies.db.",
    ),
]
MoreKeys = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=RANGE", help="Further keys that vary, after --space.")
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="URI",
        help="Registered version that teaches the students of all trials; no patriarch is trained.",
    ),
]
Space = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=RANGE|FILE",
        help="Keys that vary, in place of the recipe's own space: strictness=0.4:1.0 temperature=1:8:log"
        " top_k=2..8 optimizer=sgd,adamw, or a TOML file that holds them.",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of trials over all workers and sessions; by default 20, or the whole grid."
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC[,METRIC]",
        help="Validation metric to optimise: accuracy, top5_accuracy, cross_entropy, calibration or"
        " seconds; several give a Pareto front.",
    ),
]
Sampler = Annotated[
    str | None, typer.Option(help="Optuna's sampler: tpe, gp, cmaes, grid, random, qmc or nsgaii.")
]
Pruner = Annotated[
    str | None,
    typer.Option(
        help="Optuna's pruner: median, percentile, hyperband, successive-halving, patient, threshold or none."
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Number of worker processes on this machine.")]


def study(
    name: Annotated[str, typer.Option(metavar="STUDY", help="Name of the study and its family.")],
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a shipped recipe, or a TOML file; without one, STUDY goes on as it was run last.",
        ),
    ] = None,
    more: MoreKeys = None,
    teacher: Teacher = None,
    space: Space = None,
    trials: Trials = None,
    objective: Objective = None,
    sampler: Sampler = None,
    pruner: Pruner = None,
    storage: Storage = None,
    workers: Workers = 1,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try variants of a recipe in one family, and train no generation twice; run again to continue."""
    words = [word for word in (recipe, *(more or ())) if word is not None]
    recipe, axes = _recipe_and_space(words, space or [])
    with importing():
        from rich.console import Console

        from lineage.display.study_progress import ConsoleStudyReporter
        from lineage.studies.samplers import quieten
        from lineage.studies.study import study as run_study

    quieten()
    chosen = {"objective": objective, "sampler": sampler, "pruner": pruner}
    changes = [f"study.{key}={value}" for key, value in chosen.items() if value is not None]
    with ConsoleStudyReporter(Console(stderr=True)) as reporter:
        result = run_study(
            recipe,
            name=name,
            teacher=teacher,
            space=axes,
            trials=trials,
            storage=storage,
            workers=workers,
            overrides=[*(overrides or ()), *changes],
            reporter=reporter,
        )
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)


def study_report(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    storage: Storage = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for plots; by default STUDY-report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a study's trials and the importance of its keys, and plot both into files and its MLflow run."""
    with importing():
        from lineage.display.study_tables import importances_table
        from lineage.studies.report import report_study
        from lineage.studies.samplers import quieten

    quieten()
    report = report_study(name, storage, out or Path(f"{name}-report"))
    if as_json:
        print_json(report.to_json())
        return
    _print(report.result)
    if report.importances:
        print_rich(importances_table(report.importances))
    for file in report.files:
        print_text(str(file))
    for remark in report.remarks:
        print_text(remark)


def study_worker() -> None:
    """Work on a study that another process began, and read the job from standard input."""
    with importing():
        from rich.console import Console

        from lineage.display.study_progress import ConsoleStudyReporter
        from lineage.growing.worker_processes import receive_job
        from lineage.studies.samplers import quieten
        from lineage.studies.study import work
        from lineage.studies.worker_processes import Job

    quieten()
    job = Job.from_json(receive_job())
    with ConsoleStudyReporter(Console(stderr=True), job.worker) as reporter:
        work(job, reporter)


def _recipe_and_space(words: list[str], space: list[str]) -> tuple[str | None, list[str]]:
    """Return the recipe and all words of the space: ``--space`` takes one, further ones come as arguments."""
    recipes = [word for word in words if "=" not in word or Path(word).is_file()]
    if len(recipes) > 1:
        found = " and ".join(f"'{word}'" for word in recipes)
        raise UsageError(f"A study must be given one recipe, but got {found}; see 'lineage recipes ls'.")
    return recipes[0] if recipes else None, [*space, *(word for word in words if word not in recipes)]


def _print(result: "StudyResult") -> None:
    from lineage.studies.report import study_table

    print_rich(study_table(result))
