"""The recipe ``cifar100-small`` keeps its promises on real images: half an hour, by ``make evidence``."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lineage

DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar100"
CIFAR10 = DATA.with_name("cifar10")

pytestmark = [
    pytest.mark.evidence,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs CIFAR-100 in {DATA}"),
]


def test_three_generations_evaluate_as_logged_and_transfer(home: Path) -> None:
    started = time.monotonic()
    lineage_command(home, "grow", "cifar100-small")
    seconds = time.monotonic() - started
    print(f"cifar100-small: {seconds / 60:.1f} minutes")  # noqa: T201 - evidence is for reading
    family = lineage.tree("cifar100-small")
    assert [version.generation for version in family] == [0, 1, 2]
    for version in family:
        again = json.loads(lineage_command(home, "evaluate", version.uri, "--json"))["metrics"]
        assert again["test_accuracy"] == version.metrics["test_accuracy"]
        recorded = version.metrics["test_cross_entropy"]
        assert again["test_cross_entropy"] == pytest.approx(recorded, abs=1e-6)
    started = time.monotonic()
    newest = family.versions[-1].uri
    lineage_command(home, "transfer", newest, "--to", "cifar10", "--ancestors", "all", data=CIFAR10)
    seconds = time.monotonic() - started
    print(f"transfer to CIFAR-10: {seconds / len(family):.0f} seconds a version")  # noqa: T201 - as above


def lineage_command(home: Path, *arguments: str, data: Path = DATA) -> str:
    """Run a command as a user would, with all threads and the images in ``data``; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "lineage", *arguments, "--set", f"data.root={data}"]
    done = subprocess.run(command, cwd=home, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    print(done.stdout)  # noqa: T201 - as above
    return done.stdout
