import json
import subprocess
from collections.abc import Callable

import pytest

import lineage

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def trunk(module_home: object, tiny_settings: tuple[str, ...]) -> tuple[lineage.Version, ...]:
    """A patriarch and two students."""
    settings = [*tiny_settings, "training.epochs=1"]
    return lineage.grow("digits", overrides=settings, generations=2)[0].versions


def test_ensemble_prints_members_and_prefixes(trunk: tuple[lineage.Version, ...], call_main: Call) -> None:
    done = call_main("ensemble", trunk[2].uri, "--ancestors", "1")
    assert done.returncode == 0, done.stderr
    assert "digits/2" in done.stdout
    assert "digits/3" in done.stdout
    assert "digits/1" not in done.stdout


def test_registered_ensemble_is_printed_with_its_version(
    trunk: tuple[lineage.Version, ...], call_main: Call
) -> None:
    done = call_main("ensemble", trunk[1].uri, "--register", "committee", "--weights", "1,3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["weight"] for row in found["members"]] == [0.25, 0.75]
    assert found["version"]["uri"] == "models:/committee/1"
    again = call_main("ensemble", trunk[1].uri, "--register", "committee", "--weights", "1,3")
    assert "Registered as models:/committee/1." in again.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--copy"], "--copy must be given with --register NAME"),
        (["--weights", "1,x"], "--weights must be numbers between commas, as in 1,2,1, but got '1,x'"),
        (["--ancestors", "9"], "--ancestors must be from 0 to 2"),
    ],
)
def test_ensemble_refuses(
    trunk: tuple[lineage.Version, ...], call_main: Call, arguments: list[str], text: str
) -> None:
    done = call_main("ensemble", trunk[2].uri, *arguments)
    assert done.returncode == 2
    assert text in done.stderr
