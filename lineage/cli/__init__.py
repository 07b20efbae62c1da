"""The command line: parse, call one function, print.

Data go to standard output, progress and errors to standard error. Heavy libraries are imported inside the
commands that need them, so that ``lineage --help`` answers at once.
"""

import logging
import os
import signal
import sys
import time
import warnings
from contextlib import suppress
from types import FrameType

import typer

from lineage.cli.adopt import adopt
from lineage.cli.care import ancestors, descendants, doctor, log, promote, rm
from lineage.cli.ensemble import ensemble
from lineage.cli.family import compare, diff, show, tree
from lineage.cli.grow import evaluate, grow
from lineage.cli.memory import keep_freed_memory
from lineage.cli.recipes import app as recipes
from lineage.cli.study import study, study_report, study_worker
from lineage.cli.transfer import transfer
from lineage.cli.ui import ui
from lineage.errors import LineageError, LostProcessError
from lineage.processes import LAUNCHED, is_main_process

_INTERRUPTED = 130
_SECONDS_TO_TELL = 10

app = typer.Typer(
    help="Train neural networks in generations and remember the family in the MLflow registry.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(recipes, name="recipes")
for command in (
    grow,
    tree,
    show,
    evaluate,
    compare,
    diff,
    ensemble,
    transfer,
    adopt,
    ancestors,
    descendants,
    log,
    promote,
    rm,
    doctor,
    ui,
    study,
    study_report,
):
    app.command()(command)
app.command(hidden=True)(study_worker)


def main() -> None:
    """Run the command line; a ``LineageError`` becomes one line and its exit code."""
    _quieten_libraries()
    keep_freed_memory()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except LineageError as error:
        if isinstance(error, LostProcessError) and LAUNCHED in os.environ:
            sys.exit(error.untold_exit_code)
        _complain(f"Error: {error}")
        _let_the_first_tell()
        sys.exit(error.exit_code)
    except SystemExit as stop:
        # What Typer makes of a KeyboardInterrupt, without a word; of several processes, their parent tells it
        if stop.code == _INTERRUPTED and LAUNCHED not in os.environ:
            _complain("Interrupted; the same command continues from the last complete epoch.")
        raise


def _complain(line: str) -> None:
    """One line on standard error, from rank 0 alone: all ranks know of an error, one tells it."""
    if is_main_process():
        typer.echo(line, err=True)


def _let_the_first_tell() -> None:
    """Stay a little, unless this is rank 0: a launcher ends all others as soon as one has left."""
    if not is_main_process():
        with suppress(KeyboardInterrupt):
            time.sleep(_SECONDS_TO_TELL)


def _quieten_libraries() -> None:
    """Keep other libraries' notices out of ours; their errors reach the user as exceptions."""
    for name in ("ignite", "accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # read when MLflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # --json is printed there
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A cluster's SIGTERM ends a run as Ctrl-C does: marked as killed, and resumable."""
    raise KeyboardInterrupt
