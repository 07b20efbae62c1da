"""The command line in this process: importing torch and MLflow takes seconds a process."""

import gc
import logging
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from lineage.cli import main
from lineage.processes import ENDING


@pytest.fixture(scope="session")
def call_main() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs ``lineage`` in this process, and puts back what it changes for the whole of a process."""

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        stdout, stderr = StringIO(), StringIO()
        handlers = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, ENDING)}
        levels = {name: logging.getLogger(name).level for name in ("ignite", "accelerate", "torch")}
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "unraisablehook", sys.unraisablehook)
            patch.setattr(sys, "argv", ["lineage", *arguments])
            patch.setenv("MLFLOW_LOGGING_LEVEL", "CRITICAL")
            patch.setattr("lineage.cli._SECONDS_FOR_RANK_0", 0)  # no launcher ends this process
            with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as stop:
                main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.enable()
        gc.unfreeze()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        code = stop.value.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())

    return call
