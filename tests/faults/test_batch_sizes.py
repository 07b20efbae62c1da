"""Batch sizes that processes, accumulation or BatchNorm cannot take, refused before a run exists."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

import lineage
from lineage.errors import UsageError
from lineage.models.networks import build_network
from lineage.training.batch_size import require_batch_size
from lineage.training.devices import make_accelerator


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (4, 4)])
def test_batch_that_leaves_batchnorm_one_value_is_refused(batch_size: int, accumulation: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(UsageError, match=rf"at least 2 images a batch .* but {batch_size} gives 1 .*channel"):
        require_batch_size(
            make_accelerator(),
            lambda: copy.deepcopy(network),
            (1, 4, 4),
            batch_size=batch_size,
            accumulation=accumulation,
            sync_batchnorm=False,
        )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_of_one_image_with_more_values_is_taken() -> None:
    def build() -> nn.Module:
        return build_network("resnet8", 10, (1, 8, 8), {"width": 4})

    options = {"batch_size": 2, "accumulation": 2, "sync_batchnorm": False}
    require_batch_size(make_accelerator(), build, (1, 8, 8), **options)
    with pytest.raises(UsageError, match=r"Expected more than 1 value per channel"):
        require_batch_size(make_accelerator(), build, (1, 4, 4), **options)


FLAT = """
from torch import nn


class Flat(nn.Module):
    def __init__(self, num_classes, input_shape):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x))
"""


@pytest.fixture
def flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a network, installed as a package, that normalises one value a channel and image."""
    information = tmp_path / "site" / "onevalue-1.0.dist-info"
    information.mkdir(parents=True)
    (information.parent / "onevalue.py").write_text(FLAT)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: onevalue\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[lineage.networks]\nflat = onevalue:Flat\n")
    monkeypatch.syspath_prepend(information.parent)
    return "onevalue:flat"


@pytest.mark.usefixtures("home")
def test_recipe_whose_batches_do_not_fit_creates_no_run(flat: str) -> None:
    settings = ["training.batch_size=1", f"network.name={flat}"]
    with pytest.raises(UsageError, match=r"training\.batch_size must give every process at least 2 images"):
        lineage.grow("digits", generations=0, overrides=settings)
    assert [found.name for found in MlflowClient().search_experiments()] == ["Default"]


THREE_ODD = """
import torch
from torch import nn
from lineage.data.images import MemoryImages, memory_dataset
from lineage.errors import UsageError
from lineage.training.batch_size import require_batch_size
from lineage.training.devices import make_accelerator
from lineage.training.measurement import Subset, measure

accelerator = make_accelerator()
assert accelerator.num_processes == 2
try:
    require_batch_size(
        accelerator, nn.Identity, (1, 4, 4), batch_size=9, accumulation=1, sync_batchnorm=False
    )
except UsageError as error:
    assert "2 x 1, but got 9" in str(error), error
else:
    raise AssertionError("9 images on 2 processes")
images = MemoryImages(torch.zeros(7, 4, 4, 1, dtype=torch.uint8), torch.arange(7) % 2)
dataset = memory_dataset("odd", images, images, "ab", [0, 0])
network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
network[1].weight.data.zero_()
network[1].bias.data.copy_(torch.tensor([1.0, 0.0]))
measured = measure(accelerator, network, Subset(images, torch.arange(7), dataset.spec, 3))
assert abs(measured.metrics["accuracy"] - 4 / 7) < 1e-6, measured.metrics
print("done")
"""


def test_torchrun_without_a_gpu_trains_on_all_processes_and_measures_in_any_batch(
    tmp_path: Path,
) -> None:
    script = tmp_path / "odd.py"
    script.write_text(THREE_ODD)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, str(script)],
        env=os.environ | {"ACCELERATE_USE_CPU": "false"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2
