"""Data that several processes read are fetched once, by whatever part of ``lineage`` reads them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CODE = """
import time
from lineage.data.datasets import build_digits

def digits(root, download, image_size):
    file = root / "digits"
    if download and not file.exists():
        with (root / "downloads").open("a") as log:
            log.write("once\\n")
        time.sleep(0.5)
        file.touch()
    assert file.exists()
    return build_digits(None, False, 0)
"""
SCRIPT = """
from pathlib import Path
from lineage.evaluation.data import read_dataset
from lineage.growing.plan import read_split_data
from lineage.recipe import load_recipe
from lineage.evaluation.transfer_target import read_target, read_target_settings
from lineage.training.devices import make_accelerator

make_accelerator()

def settings(root):
    return ["data.download=true", f"data.root={root}"]

def recipe(root):
    return load_recipe("digits", ["data.name=fetched:digits", *settings(root)])

readers = {
    "grown": lambda root: read_split_data(recipe(root)),
    "measured": lambda root: read_dataset(recipe(root).data),
    "target": lambda root: read_target(
        read_target_settings("fetched:digits", "logistic", settings(root)), "logistic"
    ),
}
for name, read in readers.items():
    Path(name).mkdir(exist_ok=True)
    read(Path(name).resolve())
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Holds an installed package with a data set that notes each download."""
    folder = tmp_path / "site-packages"
    metadata = folder / "fetched-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "fetched.py").write_text(CODE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fetched\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lineage.datasets]\ndigits = fetched:digits\n")
    return folder


def test_two_processes_fetch_data_once(home: Path, site: Path, run_on_two: Callable[..., Any]) -> None:
    script = home / "read.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = run_on_two(str(script), PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    for reader in ("grown", "measured", "target"):
        assert (home / reader / "downloads").read_text() == "once\n", reader
