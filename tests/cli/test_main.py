import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from warm import WarmProcess

import lineage
from lineage.registry.family.lookup import read_family

Process = subprocess.CompletedProcess[str]
Lineage = Callable[..., Process]
Options = Callable[..., list[str]]

PATRIARCH = ("--generations", "0")
COMMANDS = (
    *(
        "grow",
        "ls",
        "tree",
        "show",
        "evaluate",
        "compare",
        "diff",
        "ensemble",
        "transfer",
        "report",
        "audit",
        "adopt",
        "export",
        "data",
    ),
    *(
        "ancestors",
        "descendants",
        "log",
        "promote",
        "rm",
        "doctor",
        "pack",
        "unpack",
        "sync",
        "study",
        "study-report",
        "ui",
        "recipes",
    ),
)


def _process(*arguments: str, cwd: Path | None = None, **environment: str) -> Process:
    env = os.environ | environment
    return subprocess.run(
        arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def _script() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("lineage"))


def _runs() -> list[Run]:
    client = MlflowClient()
    return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))


def _interrupted(home: Path, options: list[str], number: signal.Signals) -> tuple[int, str]:
    """Exit code and standard error of a growing process that gets a signal in its third epoch."""
    arguments = ["-m", "lineage", "grow", "digits", *PATRIARCH, *options]
    process = WarmProcess(arguments, home, stderr=subprocess.PIPE)
    assert process.stderr is not None
    output = ""
    with process.stderr as lines:
        for line in lines:
            output += line
            if "epoch 2/" in line:
                process.send_signal(number)
    return process.wait(timeout=60), output


def test_help_lists_all_commands_and_loads_no_heavy_library() -> None:
    outcome = _process(sys.executable, "-X", "importtime", "-m", "lineage", "--help")
    assert outcome.returncode == 0
    assert all(command in outcome.stdout for command in COMMANDS)
    loaded = {line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines()}
    assert "typer" in loaded
    assert not {"torch", "mlflow", "pydantic", "accelerate", "numpy"} & loaded


@pytest.mark.parametrize("module", ["lineage", "lineage.cli"])
def test_import_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'mlflow', 'pydantic', 'accelerate'}} & {{*sys.modules}})"
    assert _process(sys.executable, "-c", code).stdout == "set()\n"


def test_commands_that_read_a_family_load_no_torch(home: Path, tiny: Options, call_main: Lineage) -> None:
    assert call_main("grow", "digits", *tiny("training.epochs=0"), *PATRIARCH).returncode == 0
    commands = ["tree digits", "show models:/digits/1", "log digits", "compare digits"]
    commands += ["ancestors models:/digits/1", "doctor digits"]
    code = f"""
import sys
from lineage.cli import main
for command in {commands}:
    sys.argv = ["lineage", *command.split()]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, command
print({{"torch", "optuna", "sklearn"}} & {{*sys.modules}})
"""
    assert _process(sys.executable, "-c", code, cwd=home).stdout.splitlines()[-1] == "set()"


def test_growing_what_is_registered_loads_no_scikit_learn(
    home: Path, tiny: Options, call_main: Lineage
) -> None:
    arguments = ["grow", "digits", *tiny("training.epochs=0"), *PATRIARCH]
    assert call_main(*arguments).returncode == 0
    outcome = _process(sys.executable, "-X", "importtime", "-m", "lineage", *arguments, cwd=home)
    assert "nothing was trained" in outcome.stdout
    loaded = {line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines()}
    assert "torch" in loaded
    assert not {"sklearn", "scipy.stats", "torchvision", "matplotlib", "optuna"} & loaded


@pytest.mark.parametrize("command", [[_script()], [sys.executable, "-m", "lineage"]])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["recipes", "show", "digits"], 0),
        (["recipes", "validate", "digits", "--set", "patriarch.strictness=0"], 2),
        (["recipes", "show", "digts"], 3),
    ],
)
def test_process_leaves_with_the_exit_code_of_its_error(
    command: list[str], arguments: list[str], code: int
) -> None:
    outcome = _process(*command, *arguments)
    assert outcome.returncode == code
    assert bool(outcome.stdout) == (code == 0)
    assert outcome.stderr.count("\n") == (code != 0)
    assert outcome.stderr.startswith("Error: " if code else "")


def test_json_is_all_of_standard_output(tmp_path: Path, tiny: Options) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"  # created by the command, without a word
    outcome = _process(
        _script(), "grow", "digits", *tiny(), *PATRIARCH, "--json", cwd=tmp_path, MLFLOW_TRACKING_URI=store
    )
    assert outcome.returncode == 0
    (lineage,) = json.loads(outcome.stdout)
    assert [version["uri"] for version in lineage["versions"]] == ["models:/digits/1"]
    assert [line.partition(",")[0] for line in outcome.stderr.splitlines()] == [
        "generation 0: epoch 1/2",
        "generation 0: epoch 2/2",
        "generation 0: registered models:/digits/1",
    ]


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, id="SIGHUP", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, id="SIGUSR1"),
    ],
)
def test_interrupted_growing_is_marked_and_continues(
    number: signal.Signals, home: Path, tiny: Options, call_main: Lineage
) -> None:
    options = tiny("training.epochs=20")
    code, output = _interrupted(home, options, number)
    assert code == 130
    command = shlex.join([Path(sys.executable).name, "-m", "lineage", "grow", "digits", *PATRIARCH, *options])
    last = f"Interrupted; the same command continues from the last complete epoch: {command}\n"
    assert output.endswith(last)
    assert "Traceback" not in output
    (killed,) = _runs()
    assert killed.info.status == "KILLED"
    assert not MlflowClient().search_registered_models()

    outcome = call_main("grow", "digits", *PATRIARCH, *options)
    assert outcome.returncode == 0
    assert outcome.stderr.startswith("generation 0: resumed after epoch ")
    assert "epoch 1/20" not in outcome.stderr
    (finished,) = _runs()
    assert (finished.info.run_id, finished.info.status) == (killed.info.run_id, "FINISHED")
    assert [version.generation for version in read_family("digits")] == [0]
    assert not list((home / ".lineage").iterdir())


def test_version_is_printed_without_a_command(call_main: Lineage) -> None:
    outcome = call_main("--version")
    assert (outcome.returncode, outcome.stdout) == (0, f"lineage {lineage.__version__}\n")


def test_without_a_command_help_is_printed(call_main: Lineage) -> None:
    outcome = call_main()
    assert outcome.returncode == 2
    assert "Train neural networks in generations" in outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["gorw", "digits"], "No such command 'gorw'"),
        (["tree"], "Missing argument 'MODEL'"),
        (["grow", "digits", "--sed", "1"], "No such option: --sed"),
        (["grow", "digits", "--generations", "two"], "Invalid value for '--generations'"),
    ],
)
def test_arguments_that_cannot_be_read_are_usage_errors(
    arguments: list[str], wrong: str, call_main: Lineage
) -> None:
    outcome = call_main(*arguments)
    assert outcome.returncode == 2
    assert not outcome.stdout
    assert wrong in outcome.stderr


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_error_is_printed_by_rank_0_alone(
    rank: str, lines: int, call_main: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    outcome = call_main("recipes", "show", "digts")
    assert outcome.returncode == 3
    assert outcome.stderr.count("\n") == lines


def test_completion_script_is_shown_for_the_shell_in_use() -> None:
    outcome = _process("bash", "-c", f"'{_script()}' --show-completion; exit $?")
    assert outcome.returncode == 0
    assert "complete -o default -F _lineage_completion lineage" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("lineage ", {*COMMANDS}),
        ("lineage grow digits --see", {"--seed", "--seeds"}),
        ("lineage recipes s", {"show", "schema"}),
    ],
)
def test_shell_completes_commands_and_options(words: str, completed: set[str]) -> None:
    outcome = _process(
        _script(),
        _LINEAGE_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert outcome.returncode == 0
    assert {*outcome.stdout.split()} == completed
