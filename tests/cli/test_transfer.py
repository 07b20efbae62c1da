import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lineage.registry.family.lookup import find_version
from lineage.registry.store.transfers import read_transfers

Process = subprocess.CompletedProcess[str]
Main = Callable[..., Process]
FEW = ("--set", "data.train_samples=200")


@pytest.fixture(scope="module")
def grown(module_home: Path, call_main: Main, tiny: Callable[..., list[str]]) -> Process:
    """A tiny patriarch and its student; the family stays in the store."""
    return call_main("grow", "digits", "--generations", "1", *tiny())


def transfer(call_main: Main, *arguments: str, uri: str = "models:/digits/2") -> Process:
    return call_main("transfer", uri, "--to", "digits", *FEW, *arguments)


def test_transfer_prints_a_table_and_its_progress(grown: Process, call_main: Main) -> None:
    outcome = transfer(call_main, "--ancestors", "1")
    assert outcome.returncode == 0
    results = [read_transfers(find_version(f"models:/digits/{number}"))[-1] for number in (1, 2)]
    lines = outcome.stdout.splitlines()
    assert lines[0].strip() == "digits to digits, logistic, seed 0"
    for line, result in zip(lines[4:], results, strict=True):
        cells = line.replace(" %", "%").replace(" s ", "s ").split()
        assert cells[0] == str(result.version.generation)
        assert cells[1] == f"{result.version.metrics['test_accuracy']:.2%}"
        assert cells[2] == f"{result.metrics['transfer_accuracy']:.2%}"
        assert cells[4] == f"{result.chosen['C']:g}"
        assert cells[-1] == f"v{result.version.version}"
    assert "models:/digits/1: features of 704 images" in outcome.stderr.splitlines()


def test_json_of_transfer_goes_to_standard_output_alone(grown: Process, call_main: Main) -> None:
    outcome = transfer(call_main, "--probe", "knn", "--ancestors", "all", "--seed", "2", "--json")
    found = json.loads(outcome.stdout)
    assert [one["uri"] for one in found] == ["models:/digits/1", "models:/digits/2"]
    assert {(one["probe"], one["seed"], one["target"]) for one in found} == {("knn", 2, "digits")}
    for one in found:
        assert 0 <= one["metrics"]["transfer_accuracy"] <= 1
        assert list(one["chosen"]) == ["n_neighbors"]


def test_finetuning_prints_its_epochs(grown: Process, call_main: Main) -> None:
    outcome = transfer(call_main, "--probe", "finetune", "--set", "training.epochs=2")
    assert outcome.returncode == 0
    epochs = [line for line in outcome.stderr.splitlines() if "epoch" in line]
    assert [line.partition(",")[0] for line in epochs] == [
        "models:/digits/2: epoch 1/2",
        "models:/digits/2: epoch 2/2",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ("--ancestors", "some"),
            2,
            "--ancestors must be a number of at least 0, or 'all', but got 'some'.",
        ),
        (
            ("--ancestors", "2"),
            2,
            "--ancestors must be 'all' or from 0 to 1, the number of teachers of models:/digits/2, but got"
            " 2.",
        ),
        (
            ("--probe", "svn"),
            2,
            "A probe must be one of logistic, svm, knn or finetune, but got 'svn'. Did you mean 'svm'?",
        ),
    ],
)
def test_transfer_of_what_cannot_hold_is_one_sentence(
    grown: Process, call_main: Main, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    outcome = transfer(call_main, *arguments)
    assert (outcome.returncode, outcome.stdout) == (code, "")
    assert outcome.stderr.splitlines()[-1] == f"Error: {sentence}"


def test_version_that_is_not_there_is_code_3(grown: Process, call_main: Main) -> None:
    assert transfer(call_main, uri="models:/digits/7").returncode == 3
