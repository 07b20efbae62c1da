"""All that is done with a family, on an sqlite file, on a server, and on a server over PostgreSQL."""

import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
import torch
from safetensors.torch import save_file

import lineage
from lineage.data.datasets import load_dataset
from lineage.registry.store.transfers import read_transfers

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Trunk = tuple[lineage.Version, ...]


def grow(name: str, settings: tuple[str, ...], generations: int, epochs: int = 1) -> Trunk:
    overrides = [*settings, f"training.epochs={epochs}"]
    (grown,) = lineage.grow("digits", name=name, generations=generations, overrides=overrides)
    return grown.versions


@pytest.fixture(scope="module")
def trunk(module_registry: object, tiny_settings: tuple[str, ...]) -> Trunk:
    """A patriarch and four students, which nobody changes."""
    return grow(f"trunk-{uuid.uuid4().hex[:8]}", tiny_settings, generations=4)


@pytest.fixture
def name(trunk: Trunk) -> str:
    return trunk[0].name


@pytest.fixture(scope="module")
def branch(trunk: Trunk) -> lineage.Version:
    """Another student of the third of the five."""
    (grown,) = lineage.grow(teacher=trunk[2].uri, seeds=[1])
    return grown.versions[0]


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Test images of digits, as a served model is given them."""
    return load_dataset("digits").test.pixels[:20].permute(0, 3, 1, 2).float() / 255  # type: ignore[union-attr]


@pytest.fixture
def ask(call_main: Call) -> Callable[..., Any]:
    """Runs ``lineage … --json`` and gives what it prints."""

    def run(*arguments: str) -> Any:
        done = call_main(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


Ask = Callable[..., Any]


def mean_probabilities(members: Trunk, pixels: torch.Tensor) -> np.ndarray:
    shares = [lineage.load(member.uri).logits(pixels).softmax(1).numpy() for member in members]
    return np.mean(shares, axis=0)


def test_tree_ancestors_and_api_agree_on_a_branch_from_the_middle(
    trunk: Trunk, branch: lineage.Version, name: str, ask: Ask, call_main: Call
) -> None:
    assert (branch.version, branch.generation, branch.teacher) == (6, 3, trunk[2].id)
    nearest_first = [trunk[2].id, trunk[1].id, trunk[0].id]
    family = lineage.tree(name)
    found = family.with_id(branch.id)
    assert found is not None
    assert [version.id for version in family.ancestors(found)] == nearest_first

    above = ask("ancestors", branch.uri)
    assert above == [
        {"distance": distance} | version.to_json()
        for distance, version in enumerate(family.ancestors(found), start=1)
    ]

    tree = ask("tree", name)
    assert tree["versions"] == [version.to_json() for version in family]
    teachers = {student: teacher for teacher, student in tree["edges"]}
    line = [branch.id]
    while line[-1] in teachers:
        line.append(teachers[line[-1]])
    assert line[1:] == nearest_first
    assert {student for teacher, student in tree["edges"] if teacher == trunk[2].id} == {
        trunk[3].id,
        branch.id,
    }

    drawn = [line.partition("─ v") for line in call_main("tree", name).stdout.splitlines()[1:]]
    depths = {int(rest.split()[0]): len(indent) for indent, _, rest in drawn}
    assert list(depths) == [1, 2, 3, 4, 5, 6]  # below one another, and the branch last below the third
    assert depths[6] == depths[4] > depths[3] > depths[2] > depths[1]
    below = ask("descendants", trunk[2].uri)
    assert [version["uri"] for version in below] == [trunk[3].uri, branch.uri, trunk[4].uri]


@pytest.mark.parametrize("copy", [False, True], ids=["linked", "copied"])
def test_ensemble_answers_teaches_and_names_its_members(
    trunk: Trunk, name: str, copy: bool, ask: Ask, pixels: torch.Tensor
) -> None:
    committee = f"{name}-{'copies' if copy else 'links'}"
    found = ask("ensemble", trunk[1].uri, "--register", committee, *(["--copy"] if copy else []))
    uri = found["version"]["uri"]
    logits = mlflow.pyfunc.load_model(uri).predict(pixels.numpy())
    np.testing.assert_allclose(np.exp(logits), mean_probabilities(trunk[:2], pixels), atol=1e-6)
    (student,) = ask("grow", "--from", uri, "--set", "training.epochs=0")[0]["versions"]
    members = [trunk[0].id, trunk[1].id]
    assert ask("tree", committee)["edges"] == [
        *([member, f"{committee}/1"] for member in members),
        [f"{committee}/1", f"{committee}/2"],
    ]
    above = [relative["uri"] for relative in ask("ancestors", student["uri"])]
    assert above == [uri, *(f"models:/{member}" for member in members)]
    assert uri in [relative["uri"] for relative in ask("descendants", trunk[0].uri)]


def test_version_is_transferred_with_an_ancestor(trunk: Trunk, ask: Ask) -> None:
    few = ("--set", "data.train_samples=200", "--probe", "knn")
    results = ask("transfer", trunk[1].uri, "--to", "digits", "--ancestors", "1", *few)
    assert [result["uri"] for result in results] == [trunk[0].uri, trunk[1].uri]
    for version, result in zip(trunk, results, strict=False):
        assert read_transfers(version)[-1].to_json() == result


def test_versions_are_set_side_by_side(trunk: Trunk, ask: Ask) -> None:
    found = ask("diff", trunk[0].uri, trunk[1].uri)
    accuracies = [version.metrics["test_accuracy"] for version in trunk[:2]]
    assert found["metrics"]["test_accuracy"] == accuracies
    assert 0 < found["agreement"] <= 1
    assert 0 < found["cka"] < 1


def test_network_is_adopted_once_and_measured(trunk: Trunk, name: str, ask: Ask, tmp_path: Path) -> None:
    state = lineage.load(trunk[0].uri).network.state_dict()
    file = tmp_path / "own.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    candidate = ("--network", "resnet8", "--weights", str(file))
    arguments = (f"{name}-adopted", *candidate, "--from-data", "digits", "--set", "network.width=4")
    adopted = ask("adopt", *arguments, "--measure")
    assert adopted["metrics"]["test_accuracy"] == trunk[0].metrics["test_accuracy"]
    assert adopted["weights_sha256"] == trunk[0].weights_sha256
    assert not ask("adopt", *arguments)["is_new"]


def test_family_is_looked_after(
    module_registry: object, tiny_settings: tuple[str, ...], ask: Ask, call_main: Call
) -> None:
    name = f"care-{uuid.uuid4().hex[:8]}"
    patriarch, student = grow(name, tiny_settings, generations=1, epochs=0)
    assert ask("promote", patriarch.uri, "--alias", "champion")["aliases"] == ["best", "champion"]
    refusal = call_main("rm", patriarch.uri)
    assert (refusal.returncode, student.uri in refusal.stderr) == (4, True)
    assert ask("rm", patriarch.uri, "--force")["orphans"] == [student.uri]
    tree = ask("tree", name)
    assert [stone["uri"] for stone in tree["removed"]] == [patriarch.uri]
    assert tree["edges"] == [[patriarch.id, student.id]]
    assert ask("ancestors", student.uri) == []
    assert ask("doctor", name)["healthy"]
    events = [(event["event"], event["version"], event["alias"]) for event in ask("log", name)]
    assert [event for event in events if event[0] != "alias"] == [
        ("registered", 1, ""),
        ("registered", 2, ""),
        ("removed", 1, ""),
    ]
    assert ("alias", 1, "champion") in events


@pytest.mark.slow
def test_served_ensemble_answers_with_its_mean(
    http_registry: Any,
    home: Path,
    tiny_settings: tuple[str, ...],
    pixels: torch.Tensor,
    free_port: Callable[[], int],
    serving: Callable[..., Any],
) -> None:
    members = grow(f"served-{uuid.uuid4().hex[:8]}", tiny_settings, generations=1, epochs=0)
    version = lineage.ensemble([members[1].uri], name=members[0].name).version
    assert version is not None
    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "--model-uri", version.uri]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with serving(command, home, f"{address}/ping"):
        answer = requests.post(f"{address}/invocations", json={"inputs": pixels.tolist()}, timeout=60)
    assert answer.status_code == 200, answer.text
    found = np.array(answer.json()["predictions"], np.float32)
    np.testing.assert_allclose(np.exp(found), mean_probabilities(members, pixels), atol=1e-6)
