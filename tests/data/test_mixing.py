"""Views that are mixed in pairs, and their labels."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from scipy.stats import beta, chisquare
from torch import Tensor

from lineage.data.augmentation import Augmentation, random_bits
from lineage.data.batches import training_batches
from lineage.data.datasets import DataSet, load_dataset
from lineage.data.images import DataSpec, MemoryImages
from lineage.data.mixing import Mixing, Mixture, beta_quantiles
from lineage.data.views import view_of

ROWS = torch.arange(10, 50)
PLAIN = Augmentation(2, "reflect", flip=True)
MIXED = [
    Augmentation(2, "reflect", flip=True, mixup=0.4),
    Augmentation(2, "reflect", flip=True, cutmix=1.0),
    Augmentation(2, "reflect", flip=True, mixup=0.4, cutmix=1.0, policy="trivial"),
]


@pytest.fixture(scope="module")
def data() -> DataSet:
    """60 made-up images, each of a class of its own, so that labels tell what was mixed."""
    pixels = torch.randint(
        0, 256, (60, 12, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images = MemoryImages(pixels, torch.arange(60))
    names = tuple(map(str, range(60)))
    return DataSet(images, images, DataSpec("own", names, None, (0.5,) * 3, (0.25,) * 3, (3, 12, 9), "d"))


def read(data: DataSet, augmentation: Augmentation, view: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    keys = list(range(view * len(ROWS), (view + 1) * len(ROWS)))
    return view_of(data.train, data.spec, ROWS, augmentation, 0).read(keys)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0, 8.0])
def test_weights_are_quantiles_of_the_beta_distribution(alpha: float) -> None:
    table = beta_quantiles(alpha)
    assert table.min() >= 0
    assert table.max() <= 65535
    for place in (0, 1, 300, 20_000, 32_768, 60_000, 65_535):
        expected = 65_536 * beta(alpha, alpha).ppf((place + 0.5) / 65_536)
        assert abs(int(table[place]) - expected) <= 1


def test_blend_is_that_of_integers_for_all_pairs_of_pixels() -> None:
    values = np.arange(256)
    own, other = (torch.from_numpy(grid).to(torch.uint8) for grid in np.meshgrid(values, values))
    for weight in (0, 1, 255, 21_845, 32_767, 32_768, 65_535):
        mixture = Mixture(torch.zeros(1), torch.tensor([weight]))
        mixed, share = Mixing(1.0, 0.0).mix(own[None, ..., None], other[None, ..., None], mixture)
        expected = (weight * own.long() + (65_536 - weight) * other.long() + 32_768) >> 16
        assert torch.equal(mixed[0, ..., 0].long(), expected)
        assert share.item() == weight / 65_536


def test_view_is_the_blend_of_the_plain_views_of_two_images_that_train(data: DataSet) -> None:
    mixed, labels, rows = read(data, MIXED[0])
    plain, own, _ = read(data, PLAIN)
    assert torch.equal(rows, ROWS)
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels.sum(1), torch.ones(len(rows)))
    others = labels.clone().scatter_(1, own[:, None], -1).argmax(1)
    assert not labels[:, :10].any()  # held out
    assert not labels[:, 50:].any()
    weights = (labels.gather(1, own[:, None]) * 65_536).long()[..., None, None]
    expected = (weights * plain.long() + (65_536 - weights) * plain[others - 10].long() + 32_768) >> 16
    alone = others == 0  # mixed with itself
    assert torch.equal(mixed.long()[~alone], expected[~alone])
    assert alone.sum() < 5


def test_rectangle_has_the_share_of_its_label(data: DataSet) -> None:
    mixed, labels, _ = read(data, MIXED[1])
    plain, own, _ = read(data, PLAIN)
    kept = (mixed == plain).all(3).float().mean((1, 2))  # pixels that agree by chance are few
    torch.testing.assert_close(kept, labels.gather(1, own[:, None]).squeeze(1), atol=0.03, rtol=0)
    assert kept.min() < 0.5
    assert kept.max() > 0.9


@pytest.mark.parametrize("augmentation", MIXED)
def test_mixed_view_depends_on_seed_view_and_row_alone(data: DataSet, augmentation: Augmentation) -> None:
    whole, labels, _ = read(data, augmentation)
    view = view_of(data.train, data.spec, ROWS, augmentation, 0)
    pixels, some, rows = view.read([40 + 7, 40 + 3])
    assert rows.tolist() == [17, 13]
    assert torch.equal(pixels, whole[[7, 3]])
    assert torch.equal(some, labels[[7, 3]])
    assert not torch.equal(read(data, augmentation, view=2)[0], whole)
    assert not torch.equal(read(data, augmentation, view=2)[1], labels)


def test_partners_are_uniform_and_both_ways_are_equally_frequent() -> None:
    bits = random_bits(3, torch.tensor(1), torch.arange(20_000))
    mixture = Mixing(0.5, 2.0).draw(bits, 40)
    assert chisquare(torch.bincount(mixture.partners, minlength=40).numpy()).pvalue > 0.01
    assert mixture.pasting is not None
    chosen = mixture.pasting.chosen
    assert 0.48 < chosen.float().mean() < 0.52
    for alpha, weights in ((0.5, mixture.weights[~chosen]), (2.0, mixture.weights[chosen])):
        deviation = (weights / 65_536).std(correction=0)
        assert deviation == pytest.approx(beta(alpha, alpha).std(), rel=0.03)


@pytest.mark.parametrize("name", ["own", "digits"])
def test_mixed_batches_are_the_same_on_one_and_two_processes_and_with_a_worker(
    name: str, data: DataSet
) -> None:
    chosen = data if name == "own" else load_dataset("digits")
    plans = [
        training_batches(chosen.train, chosen.spec, ROWS, 8, MIXED[2], 0, 0, workers=workers)
        for workers in (0, 1, 0, 0)
    ]
    for plan in plans:
        plan.select_epoch(2)
    shares = [
        prepare_data_loader(plan.loader, num_processes=2, process_index=index, split_batches=True)
        for index, plan in enumerate(plans[2:])
    ]
    batches = zip(plans[0].loader, plans[1].loader, *shares, strict=True)
    for whole, helped, *halves in batches:
        joined = [torch.cat(parts) for parts in zip(*halves, strict=True)]
        assert whole[1].shape == (8, chosen.spec.num_classes)
        for one, two, three in zip(whole, helped, joined, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)
