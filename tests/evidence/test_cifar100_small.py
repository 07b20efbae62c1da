"""Holds the recipe ``cifar100-small`` to its promises on real images: half an hour, by ``make evidence``."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import lineage

DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar100"
MINUTES = 30

pytestmark = [
    pytest.mark.evidence,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs CIFAR-100 in {DATA}"),
]


def test_three_generations_take_half_an_hour_and_evaluate_as_logged(home: Path) -> None:
    root = f"data.root={DATA}"
    started = time.monotonic()
    command = [sys.executable, "-m", "lineage", "grow", "cifar100-small", "--set", root]
    subprocess.run(command, cwd=home, check=True)
    seconds = time.monotonic() - started
    print(f"cifar100-small: {seconds / 60:.1f} minutes")  # noqa: T201 - evidence is for reading
    family = lineage.tree("cifar100-small")
    assert [version.generation for version in family] == [0, 1, 2]
    for version in family:
        again = lineage.evaluate(version.uri, [root])
        assert again.metrics["test_accuracy"] == version.metrics["test_accuracy"]
        recorded = version.metrics["test_cross_entropy"]
        assert again.metrics["test_cross_entropy"] == pytest.approx(recorded, abs=1e-6)
    assert seconds < MINUTES * 60
