from collections.abc import Iterable
from itertools import islice

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DataLoaderConfiguration
from ignite.engine import Engine, Events
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional

from lineage.data.batches import (
    Augmentation,
    Batch,
    TrainingBatches,
    evaluation_batches,
    split_indices,
    training_batches,
)
from lineage.data.datasets import DataSet, load_dataset
from lineage.errors import UsageError

VARIED = {"digits": Augmentation(crop_padding=2, flip=True), "imagefolder": Augmentation(flip=True)}


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_dataset("digits")


@pytest.fixture(params=["digits", "streamed"])
def data(request: pytest.FixtureRequest) -> DataSet:
    found: DataSet = request.getfixturevalue(request.param)
    return found


def batches_of(data: DataSet, rows: Iterable[int] = range(16), **settings: object) -> TrainingBatches:
    chosen: dict[str, object] = {"batch_size": 8, "data_seed": 0, "order_seed": 0}
    chosen |= {"augmentation": VARIED[data.spec.name]} | settings
    indices = torch.tensor(list(rows))
    return training_batches(data.train, data.spec, indices, **chosen)


def views_of(batches: Iterable[Batch]) -> dict[int, torch.Tensor]:
    return {int(i): image for images, _, indices in batches for image, i in zip(images, indices, strict=True)}


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_batches_are_normalised_images_labels_and_rows(data: DataSet) -> None:
    images, labels, indices = next(iter(batches_of(data).loader))
    assert images.shape == (8, *data.spec.input_shape)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == indices.dtype == torch.int64
    assert torch.equal(labels, data.train.labels[indices])


def test_views_do_not_depend_on_the_batch_they_are_in(data: DataSet) -> None:
    one = views_of(batches_of(data, batch_size=16).loader)
    other = views_of(batches_of(data, rows=range(3, 15), batch_size=3, order_seed=9).loader)
    assert set(other) == set(range(3, 15))
    assert all(torch.equal(one[row], view) for row, view in other.items())


def test_batches_do_not_depend_on_the_number_of_workers(data: DataSet) -> None:
    alone, helped = batches_of(data), batches_of(data, workers=2)
    for epoch in (0, 1, 5, 1):
        alone.select_epoch(epoch)
        helped.select_epoch(epoch)
        assert same(list(alone.loader), list(helped.loader))


@pytest.mark.parametrize("changed", ["epoch", "data_seed"])
def test_views_change_with_the_epoch_and_the_data_seed(changed: str, data: DataSet) -> None:
    first, second = batches_of(data), batches_of(data, data_seed=int(changed == "data_seed"))
    second.select_epoch(int(changed == "epoch"))
    one, other = views_of(first.loader), views_of(second.loader)
    assert set(one) == set(other)
    assert sum(torch.equal(one[row], other[row]) for row in one) <= 4


def test_order_changes_with_both_epoch_and_seed(digits: DataSet) -> None:
    orders = set()
    for seed in range(3):
        batches = batches_of(digits, order_seed=seed, augmentation=None)
        for epoch in range(3):
            batches.select_epoch(epoch)
            orders.add(tuple(torch.cat([indices for _, _, indices in batches.loader]).tolist()))
    assert len(orders) == 9
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(16))}


def test_views_do_not_depend_on_the_order_seed(digits: DataSet) -> None:
    one, other = (views_of(batches_of(digits, order_seed=seed).loader) for seed in (0, 1))
    assert all(torch.equal(one[row], other[row]) for row in one)


def test_training_without_augmentation_sees_what_evaluation_sees(data: DataSet) -> None:
    trained = views_of(batches_of(data, augmentation=None).loader)
    evaluated = views_of(evaluation_batches(data.train, data.spec, torch.arange(16), 5))
    assert all(torch.equal(trained[row], view) for row, view in evaluated.items())


def test_evaluation_goes_in_order_and_keeps_the_last_batch(data: DataSet) -> None:
    rows = torch.tensor([1, 4, 5, 9, 11])
    batches = list(evaluation_batches(data.test, data.spec, rows, 2))
    assert [len(labels) for _, labels, _ in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([indices for _, _, indices in batches]), rows)


def test_evaluation_does_not_depend_on_the_number_of_workers(data: DataSet) -> None:
    alone, helped = (
        evaluation_batches(data.test, data.spec, torch.arange(9), 4, workers) for workers in (0, 2)
    )
    assert same(list(alone), list(helped))


def test_evaluation_of_a_streamed_image_resizes_and_cuts_its_centre(streamed: DataSet) -> None:
    images, _, _ = next(iter(evaluation_batches(streamed.test, streamed.spec, torch.arange(1), 1)))
    resized = functional.resize(streamed.test.read(0), [18], antialias=True)
    height, width = resized.shape[1:]
    top, left = round((height - 16) / 2), round((width - 16) / 2)
    cut = resized[:, top : top + 16, left : left + 16] / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (streamed.spec.mean, streamed.spec.std))
    torch.testing.assert_close(images[0], (cut - mean) / std)


def test_steps_have_one_size_and_what_is_left_over_is_dropped(digits: DataSet) -> None:
    batches = batches_of(digits, rows=range(30), batch_size=8, accumulation=4)
    assert batches.steps_per_epoch == 3
    assert len(batches.loader) == 12
    assert [len(labels) for _, labels, _ in batches.loader] == [2] * 12


def test_iterating_leaves_the_global_generator_alone(data: DataSet) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(batches_of(data).loader)
    list(evaluation_batches(data.test, data.spec, torch.arange(4), 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_size_above_the_training_part_is_refused(digits: DataSet) -> None:
    with pytest.raises(UsageError, match="at most the number of training images, 16, but got 17"):
        batches_of(digits, batch_size=17)


def test_accumulation_that_does_not_divide_the_batch_is_refused(digits: DataSet) -> None:
    with pytest.raises(UsageError, match=r"accumulation must divide training\.batch_size, 8, but got 3"):
        batches_of(digits, accumulation=3)


@pytest.mark.parametrize("padding", [-1, 8])
def test_padding_outside_the_image_is_refused(padding: int, digits: DataSet) -> None:
    with pytest.raises(UsageError, match=f"below the images' edge, 8 pixels, but got {padding}"):
        batches_of(digits, augmentation=Augmentation(padding))


def accelerator() -> Accelerator:
    return Accelerator(cpu=True, rng_types=[], dataloader_config=DataLoaderConfiguration(split_batches=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_prepared_loader_gives_the_batches_of_the_bare_one(workers: int, data: DataSet) -> None:
    bare, prepared = batches_of(data), batches_of(data, workers=workers)
    loader = accelerator().prepare(prepared.loader)
    for epoch in (0, 1, 2, 7):
        bare.select_epoch(epoch)
        prepared.select_epoch(epoch)
        # Ignite takes as many batches as there are and never sees the end.
        assert same(list(bare.loader), list(islice(loader, len(loader))))


@pytest.mark.parametrize("workers", [0, 2])
def test_prepared_loader_follows_the_epoch_after_one_left_in_the_middle(workers: int, data: DataSet) -> None:
    bare, prepared = batches_of(data, batch_size=2), batches_of(data, batch_size=2, workers=workers)
    loader = accelerator().prepare(prepared.loader)
    next(iter(loader))
    bare.select_epoch(3)
    prepared.select_epoch(3)
    assert same(list(bare.loader), list(loader))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prepared", [False, True])
def test_ignite_sees_each_epoch_that_is_selected_as_it_starts(
    workers: int, prepared: bool, digits: DataSet
) -> None:
    batches = batches_of(digits, workers=workers)
    loader: DataLoader[Batch] = accelerator().prepare(batches.loader) if prepared else batches.loader
    seen: list[Batch] = []
    engine = Engine(lambda _, batch: seen.append(batch))
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: batches.select_epoch(e.state.epoch))
    engine.run(loader, max_epochs=3, epoch_length=len(loader))
    expected: list[Batch] = []
    for epoch in (1, 2, 3):
        batches.select_epoch(epoch)
        expected += list(batches.loader)
    assert same(seen, expected)


def test_two_processes_share_each_batch_of_one(data: DataSet) -> None:
    whole = batches_of(data)
    shares = [batches_of(data) for _ in range(2)]
    loaders = [
        prepare_data_loader(share.loader, num_processes=2, process_index=i, split_batches=True)
        for i, share in enumerate(shares)
    ]
    for epoch in (0, 1):
        for batches in (whole, *shares):
            batches.select_epoch(epoch)
        joined = [
            tuple(torch.cat(parts) for parts in zip(first, second, strict=True))
            for first, second in zip(*loaders, strict=True)
        ]
        assert same(list(whole.loader), joined)


def test_prepared_evaluation_counts_the_samples_of_its_tail(digits: DataSet) -> None:
    tool = accelerator()
    loader = tool.prepare(evaluation_batches(digits.test, digits.spec, torch.arange(10), 4))
    remainders = [tool.gradient_state.remainder for _ in loader]
    assert remainders[-1] == 2


def test_split_and_batches_cover_the_training_part(digits: DataSet) -> None:
    train, validation = split_indices(digits.train.labels, 10, 0.1, seed=0)
    batches = training_batches(digits.train, digits.spec, train, 1, None, data_seed=0, order_seed=0)
    seen = torch.cat([indices for _, _, indices in batches.loader])
    assert torch.equal(seen.sort().values, train)
    assert not set(seen.tolist()) & set(validation.tolist())
