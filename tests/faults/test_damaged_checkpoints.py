"""Checkpoints whose bytes a disk, a full file system or a user has changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

import lineage
from lineage.display.progress import SilentReporter
from lineage.errors import TrainingError
from lineage.training.checkpoints import Checkpoint, History, state_home
from lineage.training.devices import make_accelerator


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = [flip, truncate, empty, Path.unlink]
FILES = [
    *("model.safetensors", "optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl"),
    "digests.json",
]


def prepared() -> tuple[Any, nn.Linear]:
    accelerator = make_accelerator()
    network = nn.Linear(2, 2)
    prepared_network, _ = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.1))
    accelerator.register_for_checkpointing(History())
    return accelerator, prepared_network


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged_state_is_dropped_for_the_one_before(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    accelerator, network = prepared()
    checkpoint.save(accelerator, 1)
    former = network.weight.clone()
    network.weight.data += 1
    checkpoint.save(accelerator, 2)
    assert {path.name for path in (checkpoint.folder / "epoch-2").iterdir()} == {*FILES}
    damage(checkpoint.folder / "epoch-2" / name)
    (line,) = checkpoint.drop_damaged()
    assert line.startswith("the checkpoint after epoch 2 is damaged (")
    assert name in line
    assert line.endswith("was deleted; training continues after epoch 1")
    accelerator, other = prepared()
    checkpoint.load(accelerator)
    assert torch.equal(other.weight, former)
    assert checkpoint.drop_damaged() == []


def test_state_that_gained_a_file_is_damaged(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    checkpoint.save(prepared()[0], 1)
    (checkpoint.folder / "epoch-1" / "optimizer_1.bin").write_bytes(b"more")
    (line,) = checkpoint.drop_damaged()
    assert line == (
        "the checkpoint after epoch 1 is damaged (optimizer_1.bin is not what was written) and was deleted;"
        " training continues from the start"
    )
    assert checkpoint.epoch == 0


def test_folder_that_is_no_epoch_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "epoch-old").mkdir()
    assert Checkpoint(tmp_path).epoch == 0
    assert Checkpoint(tmp_path).drop_damaged() == []


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"\x00" * 32, b"not an id"])
def test_note_without_a_word_is_no_note(tmp_path: Path, content: bytes) -> None:
    checkpoint = Checkpoint(tmp_path / "key")
    checkpoint.write_note("run_id", "abc")
    (checkpoint.folder / "run_id").write_bytes(content)
    assert checkpoint.read_note("run_id") is None


class Crash(SilentReporter):
    """A reporter that fails in the third epoch, and records messages."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)

    def watch(self, trainer: Engine, generation: int, epochs: int) -> None:
        if self.fails:
            trainer.add_event_handler(Events.EPOCH_STARTED(once=3), self._fail)

    def _fail(self) -> None:
        raise TrainingError("struck by lightning")


@pytest.fixture
def grow(home: Path, tiny_settings: tuple[str, ...]) -> Callable[..., tuple[list[str], lineage.Version]]:
    """Function that grows three epochs of ``digits``, failing in the third; returns notices and version."""

    def grow_tiny(name: str, *, fresh: bool = False) -> tuple[list[str], lineage.Version]:
        reporter = Crash(fails=False)
        (grown,) = lineage.grow(
            "digits",
            name=name,
            generations=0,
            overrides=[*tiny_settings, "training.epochs=3"],
            reporter=reporter,
            fresh=fresh,
        )
        return reporter.lines, grown.versions[0]

    with pytest.raises(TrainingError, match="lightning"):
        lineage.grow(
            "digits",
            name="torn",
            generations=0,
            overrides=[*tiny_settings, "training.epochs=3"],
            reporter=Crash(fails=True),
        )
    return grow_tiny


Grow = Callable[..., tuple[list[str], lineage.Version]]


def test_flipped_bit_does_not_change_what_is_registered(grow: Grow) -> None:
    (folder,) = state_home().iterdir()
    flip(folder / "epoch-2" / "model.safetensors")
    lines, resumed = grow("torn")
    assert lines == [
        "generation 0: the checkpoint after epoch 2 is damaged (model.safetensors is not what was written)"
        " and was deleted; training continues after epoch 1"
    ]
    _, whole = grow("whole")
    assert (resumed.key, resumed.weights_sha256) == (whole.key, whole.weights_sha256)


@pytest.mark.parametrize("fresh", [False, True])
def test_generation_grows_though_all_of_its_state_is_empty(grow: Grow, fresh: bool) -> None:
    (folder,) = state_home().iterdir()
    for file in folder.rglob("*"):
        if file.is_file():
            empty(file)
    lines, version = grow("torn", fresh=fresh)
    assert len(lines) == (0 if fresh else 2)
    assert version.generation == 0
    assert list(state_home().iterdir()) == []
