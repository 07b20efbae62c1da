"""The commands of README, tutorial and how-to guides print what the pages say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pages import DOCS, PAGES, README, TUTORIAL, Command, blocks, running_blocks
from warm import run_warm

_NUMBERS = (  # accuracies, times and speeds differ between machines
    (re.compile(r"[+-]?\d[\d,]*\.\d+"), "#"),
    (re.compile(r"\d[\d,]*(?= images/s)"), "#"),
    (re.compile(r"(\s+@best\b(?!-))"), ""),  # moves with the accuracy
    (re.compile("─+"), "─"),
    (re.compile(r"\s+"), " "),
)


def _commands(page: Path) -> list[Command]:
    return [command for block in running_blocks(page) for command in block.commands]


_STORES = {"MLFLOW_TRACKING_URI", "LINEAGE_HOME", "LINEAGE_STUDIES", "COLUMNS"}
_ELSEWHERE = [page for page in PAGES if page not in (README, TUTORIAL) and _commands(page)]
_EXAMPLES = [
    example.stem
    for example in sorted((DOCS / "examples").glob("*.py"))
    if not example.read_text().startswith("# not run")
]


_OF_BASH = re.compile(r"[|&;<>$`*?~#(){}]")


@dataclass(frozen=True)
class Outcome:
    """A command that was run.

    Attributes:
        command: What was run.
        output: Standard output and standard error as they came.
        code: Exit code.
    """

    command: str
    output: str
    code: int


@dataclass(frozen=True)
class Shell:
    """Runs commands in one folder, with bash where they are more than ``lineage`` and its arguments.

    Attributes:
        home: Working directory; its store is MLflow's default there.
        programs: Folder, first on the path, with a ``lineage`` that is this tree's.
    """

    home: Path
    programs: Path

    def run(self, command: str) -> Outcome:
        """Run one command line to its end."""
        path = [str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        kept = {name: value for name, value in os.environ.items() if name not in _STORES}
        kept["PATH"] = os.pathsep.join(path)
        program, *arguments = shlex.split(command)
        if program == "lineage" and not _OF_BASH.search(command):
            done = run_warm(["-m", "lineage", *arguments], self.home, kept, 180, subprocess.STDOUT)
        else:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.home,
                env=kept,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=180,
                check=False,
            )
        return Outcome(command, done.stdout, done.returncode)

    def run_python(self, code: str) -> Outcome:
        """Run a program."""
        kept = {name: value for name, value in os.environ.items() if name not in _STORES}
        done = run_warm(["-c", code], self.home, kept, 180, subprocess.STDOUT)
        return Outcome("python", done.stdout, done.returncode)

    def run_page(self, page: Path) -> list[tuple[Command, Outcome]]:
        """Run every command of a page, in their order."""
        return [(command, self.run(command.text)) for command in _commands(page)]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Shell:
    """A shell in an empty folder."""
    shell = Shell(tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("bin"))
    program = shell.programs / "lineage"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m lineage "$@"\n')
    program.chmod(0o755)
    shutil.copy(empty_database, shell.home / "mlflow.db")
    return shell


@pytest.fixture(scope="module")
def tutorial(shell: Shell) -> list[tuple[Command, Outcome]]:
    """The tutorial, run as it is written; the folder that it leaves is kept for the other pages."""
    outcomes = shell.run_page(TUTORIAL)
    shutil.copytree(shell.home, _kept(shell))
    return outcomes


@pytest.fixture
def after_tutorial(shell: Shell, tutorial: list[tuple[Command, Outcome]]) -> Shell:
    """The shell in the folder as the tutorial leaves it, at the same path: the store records paths."""
    shutil.rmtree(shell.home)
    shutil.copytree(_kept(shell), shell.home)
    return shell


def _kept(shell: Shell) -> Path:
    return shell.home.with_name("after-tutorial")


def test_tutorial_prints_what_it_says(tutorial: list[tuple[Command, Outcome]]) -> None:
    assert len(tutorial) > 4
    for command, outcome in tutorial:
        _compare(command, outcome)


def test_readme_prints_what_it_says(tutorial: list[tuple[Command, Outcome]]) -> None:
    tour = _commands(README)
    assert tour
    for command, (told, outcome) in zip(tour, tutorial, strict=False):
        assert command.text == told.text, "The README's tour must be the beginning of the tutorial."
        _compare(command, outcome)


@pytest.mark.parametrize("page", _ELSEWHERE, ids=lambda page: page.stem)
def test_guide_prints_what_it_says(page: Path, after_tutorial: Shell) -> None:
    for command, outcome in after_tutorial.run_page(page):
        _compare(command, outcome)


def test_programs_of_pages_and_examples_of_the_api_run(after_tutorial: Shell) -> None:
    assert len(_EXAMPLES) > 7
    programs = [(DOCS / "examples" / f"{name}.py").read_text() for name in _EXAMPLES]
    pages = [block.text for page in PAGES for block in running_blocks(page) if block.language == "python"]
    assert len(pages) > 1
    programs += pages
    code = "\n".join(f"exec({program!r}, {{}})" for program in programs)
    outcome = after_tutorial.run_python(code)
    assert outcome.code == 0, outcome.output
    assert "['models:/digits/1', 'models:/digits/2', 'models:/digits/3']" in outcome.output


def test_comparison_tells_different_lines_apart() -> None:
    outcome = Outcome("x", "a  1.5 s\nb\nc 2 d\n", 0)
    _compare(Command("x", ("a 2.5 s", "…", "c 2 d")), outcome)
    _compare(Command("x", ("…", "c 2…")), outcome)
    for wrong in (("a 2.5 s",), ("a 2.5 s", "b", "c 3 d"), ("…", "b")):
        with pytest.raises(AssertionError):
            _compare(Command("x", wrong), outcome)


def test_every_block_that_is_not_run_says_why() -> None:
    skipped = [block for page in PAGES for block in blocks(page) if block.not_run]
    assert skipped
    assert all(len(block.not_run.split()) > 1 for block in skipped)


def _compare(command: Command, outcome: Outcome) -> None:
    """Assert that a command printed the documented lines; with none documented, that it succeeded."""
    refused = any(line.startswith("Error:") for line in command.output)
    assert (outcome.code != 0) == refused, f"{command.text} left with {outcome.code}: {outcome.output}"
    if not command.output:
        return
    pattern = "".join(_line_pattern(line) for line in command.output)
    printed = "".join(f"{_normalise(line)}\n" for line in outcome.output.splitlines() if line.strip())
    documented = "\n".join([command.text, *command.output])
    assert re.fullmatch(pattern, printed), f"{documented}\n--- is documented, but got\n{outcome.output}"


def _line_pattern(line: str) -> str:
    if line.strip() == "…":
        return r"(?:.*\n)*"
    if line.endswith("…"):
        return re.escape(_normalise(line.removesuffix("…"))) + r".*\n"
    return re.escape(_normalise(line)) + r"\n"


def _normalise(line: str) -> str:
    for pattern, replacement in _NUMBERS:
        line = pattern.sub(replacement, line)
    return line.strip()
