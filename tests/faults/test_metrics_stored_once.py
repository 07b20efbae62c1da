"""Metrics of epochs in the registry, whatever is killed between logging and checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import lineage
from lineage.errors import TrainingError
from lineage.training.checkpoints import Checkpoint, state_home


@pytest.fixture
def torn(home: Path, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Grows three epochs of ``digits``, killed between log and checkpoint of the second.

    Returns the function that grows on.
    """

    def grow() -> lineage.Version:
        settings = [*tiny_settings, "training.epochs=3"]
        (grown,) = lineage.grow("digits", generations=0, overrides=settings)
        return grown.versions[0]

    save = Checkpoint.save

    def die(self: Checkpoint, accelerator: Any, epoch: int) -> None:
        if epoch == 2:
            raise TrainingError("killed")
        save(self, accelerator, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", die)
        with pytest.raises(TrainingError, match="killed"):
            grow()
    return grow


def steps(run_id: str) -> dict[str, list[int]]:
    """Return the epochs of every metric of a run that has a history."""
    client = MlflowClient()
    histories = {key: client.get_metric_history(run_id, key) for key in client.get_run(run_id).data.metrics}
    return {key: [point.step for point in points] for key, points in histories.items()}


def test_epoch_that_is_trained_again_is_stored_once(torn: Callable[[], lineage.Version]) -> None:
    (folder,) = state_home().iterdir()
    run_id = (folder / "run_id").read_text()
    assert steps(run_id)["train_loss"] == [1, 2]
    assert torn().run_id == run_id
    found = steps(run_id)
    for name in ("train_loss", "lr", "images_per_second", "validation_accuracy"):
        assert found[name] == [1, 2, 3], name


def test_run_that_replaces_another_holds_all_epochs(torn: Callable[[], lineage.Version]) -> None:
    (folder,) = state_home().iterdir()
    (folder / "run_id").write_text("")
    assert steps(torn().run_id)["train_loss"] == [1, 2, 3]
