"""Output to a terminal without Unicode, to a pipe whose reader left, to a full device, to nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lineage

PRINT = """
import sys
from lineage.cli.output import print_json, print_rich, print_text
from lineage.cli.streams import protect_output, require_output
from lineage.errors import UsageError
protect_output()
print("progress é", file=sys.stderr)
print_text("é – " + "x" * 100_000)
print_json({"é": "–"})
print_text("later")
try:
    require_output()
except UsageError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def shell(redirection: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``PRINT`` under a shell's redirection."""
    command = f'set -o pipefail; "{sys.executable}" -c "$CODE" {redirection}'
    variables = os.environ | {"CODE": PRINT, "PYTHONUNBUFFERED": ""} | environment
    return subprocess.run(
        ["bash", "-c", command], env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_letters_that_a_terminal_lacks_are_replaced() -> None:
    done = shell("", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "progress ?\n")
    first, *rest = done.stdout.splitlines()
    assert first.startswith("? ? xxx")
    assert json.loads("".join(rest[:-1])) == {"é": "–"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirection", ["| head -c 10 > /dev/null", "| true", ">&-", "2>&- >&-"])
def test_reader_that_left_is_no_error(redirection: str, unbuffered: str) -> None:
    done = shell(redirection, PYTHONUNBUFFERED=unbuffered, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0
    assert done.stderr == ("" if "2>" in redirection else "progress é\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this device.")
@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [("> /dev/full", 2, "but did not (No space left on device)"), ("2> /dev/full", 0, "")],
)
def test_full_device_is_told_in_a_sentence(redirection: str, code: int, told: str) -> None:
    done = shell(redirection)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this device.")
def test_version_is_registered_though_its_table_cannot_be_printed(
    home: Path, tiny: Callable[..., list[str]]
) -> None:
    options: Any = ["--generations", "0", *tiny("training.epochs=0", 'model.name="é"')]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lineage", "grow", "digits", *options],
            cwd=home,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "generation 0: registered models:/?/1, test accuracy "
        + f"{lineage.tree('é').versions[0].metrics['test_accuracy']:.2%}",
        "Error: Standard output must take the result, but did not (No space left on device); the command"
        " itself is complete: print its result elsewhere.",
    ]
