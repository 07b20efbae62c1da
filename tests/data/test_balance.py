import pytest
import torch

from lineage.data.batches import EpochOrder, training_batches
from lineage.data.images import MemoryImages, memory_dataset


def drawn(labels: torch.Tensor, epoch: int = 1, num_drawn: int | None = None, seed: int = 0) -> torch.Tensor:
    """Rows of an epoch in their order."""
    order = EpochOrder(len(labels), len(labels) if num_drawn is None else num_drawn, seed, labels=labels)
    order.epoch = epoch
    return torch.tensor(list(order)) - epoch * len(labels)


def test_balanced_epoch_shows_every_class_alike_in_every_round() -> None:
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    rows = drawn(labels)
    assert len(rows) == 60
    assert labels[rows].bincount().tolist() == [20, 20, 20]
    for round_ in labels[rows].view(20, 3):
        assert round_.sort().values.tolist() == [0, 1, 2]
    firsts = {tuple(round_.tolist()) for round_ in labels[rows].view(20, 3)}
    assert len(firsts) > 1  # not always in the same order


def test_balanced_epoch_uses_images_of_a_class_equally_often() -> None:
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    times = drawn(labels).bincount(minlength=60)
    assert set(times[:40].tolist()) == {0, 1}
    assert set(times[40:55].tolist()) == {1, 2}
    assert times[55:].tolist() == [4] * 5
    left_out = {row for row in range(40) if times[row] == 0}
    assert left_out & set(drawn(labels, epoch=2).tolist())  # other ones are left out


def test_balanced_order_depends_on_seed_and_epoch_alone() -> None:
    labels = torch.arange(30) % 7
    assert torch.equal(drawn(labels, 3), drawn(labels, 3))
    assert not torch.equal(drawn(labels, 3), drawn(labels, 4))
    assert not torch.equal(drawn(labels, 3), drawn(labels, 3, seed=1))


@pytest.mark.parametrize("balance_classes", [False, True])
def test_batches_balance_the_rows_that_train(balance_classes: bool) -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    images = MemoryImages(torch.zeros(40, 8, 8, 1, dtype=torch.uint8), labels)
    spec = memory_dataset("plain", images, images, "ab").spec
    rows = torch.arange(5, 35)  # 25 of class 0, 5 of class 1
    batches = training_batches(
        images, spec, rows, 10, None, data_seed=0, order_seed=0, balance_classes=balance_classes
    )
    batches.select_epoch(1)
    seen = torch.cat([indices for _, _, indices in batches.loader])
    assert set(seen.tolist()) <= set(rows.tolist())
    assert labels[seen].bincount().tolist() == ([15, 15] if balance_classes else [25, 5])
