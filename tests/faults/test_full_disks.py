"""Full disks: below checkpoints, below the store's database, and below its artifacts."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from mlflow import MlflowClient

import lineage
from lineage.errors import IntegrityError
from lineage.registry.care.doctor import examine
from lineage.registry.family.lookup import read_family
from lineage.training.checkpoints import Checkpoint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Function that mounts a file system of some KiB in a new folder of a name."""
    mounted: list[Path] = []

    def mount(name: str, kibibytes: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("Only root may mount a small file system, and not in every container.")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all room of the disk of ``folder`` but some bytes; return the file that has it."""
    file = folder / f"filler-{uuid.uuid4().hex}"
    with file.open("wb") as target:
        target.write(bytes(max(shutil.disk_usage(folder).free - leave, 0)))
    return file


@pytest.mark.parametrize("leave", [0, 8_192, 65_536])
def test_checkpoint_on_a_full_disk_leaves_the_one_before(
    small_disk: Callable[[str, int], Path], leave: int
) -> None:
    checkpoint = Checkpoint(small_disk("state", 2_048) / "key")
    accelerator = Accelerator(cpu=True)
    network = accelerator.prepare(torch.nn.Linear(100, 100))
    optimizer = accelerator.prepare(torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))
    network(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    checkpoint.save(accelerator, 1)
    filler = fill(checkpoint.folder.parent, leave)
    before = {path: path.read_bytes() for path in checkpoint.folder.rglob("*") if path.is_file()}
    with pytest.raises(IntegrityError, match=r"after epoch 2 must fit on the disk .*continues after epoch 1"):
        checkpoint.save(accelerator, 2)
    assert {path: path.read_bytes() for path in checkpoint.folder.rglob("*") if path.is_file()} == before
    assert checkpoint.drop_damaged() == []
    filler.unlink()
    checkpoint.save(accelerator, 2)
    assert checkpoint.epoch == 2


def test_upload_to_a_full_disk_is_repeated_without_training(
    home: Path, small_disk: Callable[[str, int], Path], tiny_settings: tuple[str, ...]
) -> None:
    filler = fill(small_disk("mlruns", 1_024), leave=16_384)  # room for the recipe, not for the network
    with pytest.raises(IntegrityError, match="must have room, but its disk is full; free some"):
        lineage.grow("digits", generations=0, overrides=tiny_settings)
    (experiment,) = MlflowClient().search_experiments(filter_string="name = 'digits'")
    (run,) = MlflowClient().search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert not MlflowClient().search_registered_models()
    filler.unlink()
    (grown,) = lineage.grow("digits", generations=0, overrides=tiny_settings)
    assert grown.versions[0].run_id == run.info.run_id
    points = MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in points] == [1, 2]
    assert [version.version for version in read_family("digits")] == [1]
    assert examine("digits", lambda _: False).healthy


def test_full_disk_of_the_database_is_said(
    empty_database: Path,
    home: Path,
    small_disk: Callable[[str, int], Path],
    tiny_settings: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = empty_database.stat().st_size // 1024
    folder = small_disk("store", size + 256)
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    fill(folder)
    with pytest.raises(IntegrityError, match="must have room, but its disk is full; free some"):
        lineage.grow("digits", generations=0, overrides=tiny_settings)
