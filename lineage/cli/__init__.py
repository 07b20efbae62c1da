"""The command line: each command parses its options, calls one function and prints.

Data go to standard output, progress and errors to standard error. Heavy libraries are imported inside the
commands that need them, so that ``lineage --help`` answers at once.
"""

import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.adopt import adopt
from lineage.cli.audit import audit
from lineage.cli.compare import compare
from lineage.cli.data import app as data
from lineage.cli.diff import diff
from lineage.cli.doctor import doctor
from lineage.cli.ensemble import ensemble
from lineage.cli.evaluate import evaluate
from lineage.cli.export import export
from lineage.cli.grow import grow, grow_worker
from lineage.cli.log import log
from lineage.cli.ls import ls
from lineage.cli.output import print_progress, print_text
from lineage.cli.pack import pack
from lineage.cli.promote import promote
from lineage.cli.recipes import app as recipes
from lineage.cli.relatives import ancestors, descendants
from lineage.cli.report import report
from lineage.cli.rm import rm
from lineage.cli.show import show
from lineage.cli.startup import prepare_process
from lineage.cli.streams import require_output
from lineage.cli.study import study, study_report, study_worker
from lineage.cli.sync import sync
from lineage.cli.transfer import transfer
from lineage.cli.tree import tree
from lineage.cli.ui import ui
from lineage.cli.unpack import unpack
from lineage.errors import LineageError, LostProcessError
from lineage.processes import LAUNCHED, is_main_process, leave_undisturbed

_INTERRUPTED = 130
_SECONDS_FOR_RANK_0 = 10

app = typer.Typer(
    help="Train neural networks in generations and remember the family in the MLflow registry.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from lineage import __version__

        print_text(f"lineage {__version__}")
        raise typer.Exit


@app.callback()
def _shared_options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take options that stand before any command."""


app.add_typer(recipes, name="recipes")
app.add_typer(data, name="data")
for command in (
    grow,
    ls,
    tree,
    show,
    evaluate,
    compare,
    report,
    diff,
    ensemble,
    transfer,
    audit,
    adopt,
    export,
    ancestors,
    descendants,
    log,
    promote,
    rm,
    doctor,
    pack,
    unpack,
    sync,
    ui,
    study,
    study_report,
):
    app.command()(command)
app.command(hidden=True)(study_worker)
app.command(hidden=True)(grow_worker)


def main() -> None:
    """Run the command line; a ``LineageError`` is printed as one line and decides the exit code."""
    prepare_process()
    try:
        _run_app()
    except LineageError as error:
        if isinstance(error, LostProcessError) and LAUNCHED in os.environ:
            sys.exit(error.untold_exit_code)
        print_progress(f"Error: {error}")
        _wait_for_rank_0()
        sys.exit(error.exit_code)
    except (RuntimeError, EOFError, OSError) as error:
        from lineage.data.workers import lost_worker  # torch is loaded where loader processes are

        lost = lost_worker(error)
        if lost is None:
            raise
        print_progress(f"Error: {lost}")
        sys.exit(lost.exit_code)
    except SystemExit as stop:
        # Typer turns KeyboardInterrupt into this exit code and prints nothing; of processes that we
        # launched, the parent prints the line
        if stop.code == _INTERRUPTED and LAUNCHED not in os.environ:
            print_progress(
                f"Interrupted; the same command continues from the last complete epoch: {_command()}"
            )
        raise
    finally:
        leave_undisturbed()


def _run_app() -> None:
    """Run the command, which ends in ``SystemExit``; if it succeeded, check that its output was taken."""
    try:
        app()
    except SystemExit as stop:
        if not stop.code:
            require_output()
        raise


def _command() -> str:
    """Return the command that continues this one, as it is typed into a shell."""
    program, *arguments = sys.argv
    words = ["lineage"] if Path(program).name == "lineage" else [Path(sys.executable).name, "-m", "lineage"]
    return shlex.join([*words, *(word for word in arguments if word != "--fresh")])


def _wait_for_rank_0() -> None:
    """Wait, on other ranks, until rank 0 has printed: a launcher ends all processes when one has exited."""
    if not is_main_process():
        with suppress(KeyboardInterrupt):
            time.sleep(_SECONDS_FOR_RANK_0)
