import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lineage.errors import IntegrityError, UsageError
from lineage.training.checkpoints import Checkpoint, History, state_home
from lineage.training.devices import make_accelerator

OWNER = """
import os, sys, time
from pathlib import Path
from lineage.training.checkpoints import Checkpoint

checkpoint = Checkpoint(Path(sys.argv[1]) / "key")
checkpoint.acquire()
worker = os.fork()
if worker:
    print(worker, flush=True)
time.sleep(60)
"""


def test_state_home_is_in_the_working_directory_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINEAGE_HOME", raising=False)
    assert state_home() == Path(".lineage")
    monkeypatch.setenv("LINEAGE_HOME", "/elsewhere")
    assert state_home() == Path("/elsewhere")


def test_checkpoint_restores_weights_optimizer_and_history(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "home" / "key")
    assert checkpoint.epoch == 0
    accelerator, network, optimizer, history = _prepared()
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    history.epochs.append({"train_loss": 1.5})
    history.seconds = 2.5
    checkpoint.save(accelerator, 3)
    assert checkpoint.epoch == 3
    other_accelerator, other, other_optimizer, other_history = _prepared()
    checkpoint.load(other_accelerator)
    assert torch.equal(other.weight, network.weight)
    momentum = next(iter(optimizer.state_dict()["state"].values()))["momentum_buffer"]
    assert torch.equal(
        next(iter(other_optimizer.state_dict()["state"].values()))["momentum_buffer"], momentum
    )
    assert other_history.state_dict() == {"epochs": [{"train_loss": 1.5}], "seconds": 2.5}


def test_checkpoint_keeps_the_newest_state_and_the_one_before(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    accelerator = _prepared()[0]
    for epoch in (8, 9, 10, 11):
        checkpoint.save(accelerator, epoch)
    assert {path.name for path in checkpoint.folder.iterdir()} == {"epoch-10", "epoch-11"}


def test_checkpoint_torn_while_written_leaves_the_former_one(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    accelerator = _prepared()[0]
    checkpoint.save(accelerator, 1)
    torn = checkpoint.folder / "partial"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    assert checkpoint.epoch == 1
    checkpoint.load(accelerator)
    checkpoint.save(accelerator, 2)
    assert {path.name for path in checkpoint.folder.iterdir()} == {"epoch-1", "epoch-2"}


def test_checkpoint_of_a_later_epoch_wins_where_a_crash_left_two(tmp_path: Path) -> None:
    for epoch in (9, 10):
        (tmp_path / f"epoch-{epoch}").mkdir()
    assert Checkpoint(tmp_path).epoch == 10


def test_checkpoint_folder_is_private(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "home" / "key")
    checkpoint.write_note("run_id", "abc")
    for folder in (checkpoint.folder, checkpoint.folder.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_checkpoint_keeps_notes_until_it_is_discarded(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    assert checkpoint.read_note("run_id") is None
    checkpoint.write_note("run_id", "abc")
    checkpoint.save(_prepared()[0], 1)
    assert checkpoint.read_note("run_id") == "abc"
    checkpoint.discard()
    assert checkpoint.read_note("run_id") is None
    assert checkpoint.epoch == 0


def test_checkpoint_is_owned_by_one_at_a_time(tmp_path: Path) -> None:
    mine, other = Checkpoint(tmp_path / "key"), Checkpoint(tmp_path / "key")
    mine.acquire()
    sentence = rf"grow the generation in {tmp_path}/key, but process {os.getpid()} on \S+ is growing it; wait"
    with pytest.raises(IntegrityError, match=sentence):
        other.acquire()
    mine.write_note("run_id", "abc")
    other.discard()
    assert mine.read_note("run_id") == "abc"
    mine.discard()
    assert mine.read_note("run_id") is None
    with pytest.raises(IntegrityError):
        other.acquire()
    mine.release()
    other.acquire()
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_that_holds_a_state_outlives_its_owner(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    checkpoint.acquire()
    checkpoint.write_note("run_id", "abc")
    checkpoint.release()
    assert checkpoint.read_note("run_id") == "abc"


def test_checkpoint_of_a_killed_process_is_free_though_its_workers_live(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    checkpoint = Checkpoint(tmp_path / "key")
    with pytest.raises(IntegrityError, match=f"but process {owner.pid} on"):
        checkpoint.acquire()
    owner.kill()
    owner.wait()
    checkpoint.acquire()
    checkpoint.release()
    os.kill(worker, signal.SIGKILL)
    owner.stdout.close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UsageError, match=r"must be on a file system that locks files.*set LINEAGE_HOME"):
        Checkpoint(tmp_path / "key").acquire()


def test_checkpoint_is_owned_though_its_folder_vanishes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    make_folder = Checkpoint.make_folder

    def make_and_lose(self: Checkpoint) -> None:
        make_folder(self)
        self.folder.rmdir()

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "make_folder", make_and_lose)
        checkpoint.acquire()
    assert stat.S_IMODE(checkpoint.folder.stat().st_mode) == 0o700
    with pytest.raises(IntegrityError, match=f"process {os.getpid()}"):
        Checkpoint(tmp_path / "key").acquire()
    checkpoint.release()


def _prepared() -> tuple:
    accelerator = make_accelerator()
    network = nn.Linear(2, 2)
    network, optimizer = accelerator.prepare(
        network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    )
    history = History()
    accelerator.register_for_checkpointing(history)
    return accelerator, network, optimizer, history
