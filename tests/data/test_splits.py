import pytest
import torch

from lineage.data.batches import split_indices
from lineage.errors import UsageError

LABELS = torch.arange(10).repeat_interleave(torch.tensor([100] * 5 + [50] * 5))


def test_split_divides_all_rows_by_class() -> None:
    train, validation = split_indices(LABELS, 10, 0.1, seed=0)
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(750))
    assert torch.bincount(LABELS[validation]).tolist() == [10] * 5 + [5] * 5
    assert torch.equal(train, train.sort().values)
    assert torch.equal(validation, validation.sort().values)
    assert train.dtype == validation.dtype == torch.int64


def test_split_depends_on_the_seed_alone() -> None:
    first, again, other = (split_indices(LABELS, 10, 0.1, seed)[1] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_split_without_validation_trains_on_everything() -> None:
    train, validation = split_indices(LABELS, 10, 0.0, seed=0)
    assert torch.equal(train, torch.arange(750))
    assert validation.shape == (0,)
    assert validation.dtype == torch.int64


def test_split_takes_a_stratified_part_without_touching_validation() -> None:
    whole, validation = split_indices(LABELS, 10, 0.1, seed=0)
    part, same_validation = split_indices(LABELS, 10, 0.1, seed=0, train_samples=75)
    assert torch.equal(validation, same_validation)
    assert torch.bincount(LABELS[part]).tolist() == [10] * 5 + [5] * 5
    assert set(part.tolist()) <= set(whole.tolist())
    everything, _ = split_indices(LABELS, 10, 0.1, seed=0, train_samples=len(whole))
    assert torch.equal(everything, whole)


def test_split_takes_any_integer_as_seed() -> None:
    assert len(split_indices(LABELS, 10, 0.1, seed=-(2**40))[1]) == 75


@pytest.mark.parametrize("validation", [-0.1, 1.0, float("nan")])
def test_split_outside_its_range_is_refused(validation: float) -> None:
    with pytest.raises(UsageError, match="validation must be at least 0 and below 1, but got"):
        split_indices(LABELS, 10, validation, seed=0)


@pytest.mark.parametrize(("validation", "advice"), [(0.01, "raise"), (0.995, "lower")])
def test_split_too_uneven_for_every_class_is_refused(validation: float, advice: str) -> None:
    with pytest.raises(
        UsageError, match=rf"Each of the 10 classes must have an image.*; {advice} it, or set"
    ):
        split_indices(LABELS, 10, validation, seed=0)


@pytest.mark.parametrize(
    ("validation", "part", "advice"), [(0.1, "validation", "raise"), (0.9, "training", "lower")]
)
def test_split_that_a_small_class_misses_is_refused(validation: float, part: str, advice: str) -> None:
    labels = torch.tensor([0] * 200 + [1] * 200 + [2] * 2)
    with pytest.raises(UsageError, match=f"leaves 1 without one in {part}; {advice} it"):
        split_indices(labels, 3, validation, seed=0)


@pytest.mark.parametrize(("validation", "needed"), [(0.1, 2), (0.0, 1)])
def test_split_of_a_class_without_enough_images_is_refused(validation: float, needed: int) -> None:
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * (needed - 1))
    message = rf"3 classes must have {needed} training images? or more, but {{}} has fewer; "
    with pytest.raises(UsageError, match=message.format("class 2")):
        split_indices(labels, 3, validation, seed=0)
    with pytest.raises(UsageError, match=message.format("'fox'")):
        split_indices(labels, 3, validation, seed=0, class_names=["cat", "dog", "fox"])


@pytest.mark.parametrize("train_samples", [0, 9, 670, 676])
def test_split_of_an_impossible_number_of_training_samples_is_refused(train_samples: int) -> None:
    with pytest.raises(UsageError, match=r"train_samples must be from 10.* to 665, or all 675 images"):
        split_indices(LABELS, 10, 0.1, seed=0, train_samples=train_samples)


def test_split_whose_training_samples_miss_a_class_is_refused() -> None:
    labels = torch.tensor([0] * 200 + [1] * 200 + [2] * 2)
    with pytest.raises(UsageError, match="train_samples=20 leaves 1 without one; raise it"):
        split_indices(labels, 3, 0.0, seed=0, train_samples=20)


@pytest.mark.parametrize("train_samples", [None, 75, 76])
def test_halves_of_the_training_part_share_every_class_and_no_image(train_samples: int | None) -> None:
    whole, held_out = split_indices(LABELS, 10, 0.1, seed=0, train_samples=train_samples)
    halves = [split_indices(LABELS, 10, 0.1, 0, train_samples, subset=(3, half)) for half in (0, 1)]
    rows = [train for train, _ in halves]
    assert all(torch.equal(validation, held_out) for _, validation in halves)
    assert torch.equal(torch.cat(rows).sort().values, whole)
    counts = torch.stack([torch.bincount(LABELS[half]) for half in rows])
    assert (counts[0] - counts[1]).abs().max() <= 1
    assert all(torch.equal(half, half.sort().values) for half in rows)


def test_halves_depend_on_their_seed_alone() -> None:
    first, again, other = (split_indices(LABELS, 10, 0.1, 0, subset=(seed, 0))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    kept, _ = split_indices(LABELS, 10, 0.0, seed=1, subset=(3, 0))
    assert torch.equal(kept, split_indices(LABELS, 10, 0.0, seed=2, subset=(3, 0))[0])


@pytest.mark.parametrize("counts", [[2, 2, 2], [2, 3, 3], [2, 2, 3], [9, 3, 3]])
def test_halves_of_small_classes_have_them_all(counts: list[int]) -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    for half in (0, 1):
        rows, _ = split_indices(labels, 3, 0.0, 0, subset=(0, half))
        assert set(labels[rows].tolist()) == {0, 1, 2}


def test_half_of_a_class_of_one_image_is_refused() -> None:
    labels = torch.tensor([0] * 20 + [1] * 20 + [2])
    message = r"3 classes must have 2 training images or more to be divided by data.subset, but 1 has fewer"
    with pytest.raises(UsageError, match=message):
        split_indices(labels, 3, 0.0, 0, subset=(0, 1))
