"""Process-wide settings of the command line; ``import lineage`` elsewhere changes none of them."""

import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lineage.cli.memory import keep_freed_memory
from lineage.cli.streams import protect_output
from lineage.processes import interrupt_on_signals


def prepare_process() -> None:
    """Protect output, silence other libraries' notices, keep freed memory, and interrupt on signals."""
    protect_output()
    keep_freed_memory()
    for name in ("ignite", "accelerate", "torch"):  # their errors reach the user as exceptions
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # read when MLflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for --json
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    interrupt_on_signals()


@contextmanager
def importing() -> Iterator[None]:
    """Import without garbage collection, and keep the imported objects out of later collections.

    torch and MLflow create more than a million objects that live as long as the process. Walking them, while
    they are created and when the process ends, took half of the time that ``lineage grow`` needs to find that
    there is nothing to do.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.freeze)


def collect_no_garbage() -> None:
    """Turn garbage collection off until the process ends: for commands that read a family and print it.

    A family of thousands of versions is millions of objects, none of which is garbage.
    """
    gc.disable()
    atexit.register(gc.freeze)
