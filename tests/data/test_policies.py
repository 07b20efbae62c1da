"""Views beyond a padded crop and a flip, of images in memory and of streamed ones."""

from collections.abc import Iterable
from typing import get_args

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from lineage.data.augmentation import Augmentation, ResizedCrop, random_bits
from lineage.data.batches import training_batches
from lineage.data.datasets import DataSet, load_dataset
from lineage.data.policies import AUGMENTATIONS
from lineage.data.views import view_of
from lineage.errors import UsageError
from lineage.recipe import PolicyName

KEYS = list(range(20, 40))  # view 1 of all 20 rows
ROWS = torch.arange(20)
FURTHER = [
    Augmentation(flip=True, resized_crop=ResizedCrop((0.3, 0.6)), policy="trivial", erasing=0.5),
    Augmentation(policy="rand"),
    Augmentation(erasing=1.0),
]


@pytest.fixture(params=["digits", "streamed"])
def data(request: pytest.FixtureRequest) -> DataSet:
    return load_dataset("digits") if request.param == "digits" else request.getfixturevalue("streamed")


def pixels_of(data: DataSet, augmentation: Augmentation | None, keys: Iterable[int] = KEYS) -> Tensor:
    return view_of(data.train, data.spec, ROWS, augmentation, 0).read(list(keys))[0]


def test_every_policy_of_a_recipe_is_built() -> None:
    assert set(AUGMENTATIONS) == set(get_args(PolicyName))


@pytest.mark.parametrize("augmentation", FURTHER)
def test_view_depends_on_seed_view_and_row_alone(data: DataSet, augmentation: Augmentation) -> None:
    whole = pixels_of(data, augmentation)
    assert whole.shape == (20, *data.spec.input_shape[1:], data.spec.input_shape[0])
    assert whole.dtype == torch.uint8
    torch.manual_seed(5)
    assert torch.equal(pixels_of(data, augmentation, KEYS[9:4:-1]), whole[[9, 8, 7, 6, 5]])
    assert not torch.equal(pixels_of(data, augmentation, range(40, 60)), whole)  # another view
    assert not torch.equal(pixels_of(data, None), whole)
    batches = training_batches(data.train, data.spec, ROWS, 5, augmentation, 0, 0, workers=1)
    batches.select_epoch(1)
    expected = view_of(data.train, data.spec, ROWS, augmentation, 0).normalise(whole)
    for images, _, rows in batches.loader:
        assert torch.equal(images, expected[rows])


def test_streamed_view_keeps_the_bits_that_keys_of_former_versions_stand_for(streamed: DataSet) -> None:
    spec = streamed.spec
    steps = [v2.RandomResizedCrop((16, 16), antialias=True), v2.RandomHorizontalFlip()]
    former = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec.mean, spec.std)])
    seeds = random_bits(0, torch.tensor(1), ROWS)
    images = view_of(streamed.train, spec, ROWS, Augmentation(flip=True), 0).__getitems__(KEYS)[0]
    for row, seed, image in zip(ROWS.tolist(), seeds.tolist(), images, strict=True):
        torch.default_generator.manual_seed(seed)
        assert torch.equal(image, former(streamed.train.read(row)))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_policy_is_that_of_torchvision_seeded_for_each_view(name: str) -> None:
    digits = load_dataset("digits")
    theirs = {"trivial": v2.TrivialAugmentWide(), "rand": v2.RandAugment()}[name]
    cropped = pixels_of(digits, Augmentation(1, "zeros", flip=True))
    views = pixels_of(digits, Augmentation(1, "zeros", flip=True, policy=name))
    for seed, image, view in zip(random_bits(0, torch.tensor(1), ROWS).tolist(), cropped, views, strict=True):
        torch.default_generator.manual_seed(seed)
        assert torch.equal(theirs(image.permute(2, 0, 1)), view.permute(2, 0, 1))


def test_crop_has_the_scale_and_ratio_that_are_set(data: DataSet) -> None:
    whole = Augmentation(resized_crop=ResizedCrop((1.0, 1.0), (1.0, 1.0)))
    first = pixels_of(data, whole, [20])
    if data.spec.name == "digits":  # the whole square, unchanged
        assert torch.equal(first, data.train.pixels[:1])
    part = Augmentation(resized_crop=ResizedCrop((0.1, 0.1), (1.0, 1.0)))
    # a tenth of the image, enlarged, is smoother than the whole
    rough, smooth = (pixels_of(data, each).float().diff(dim=1).abs().mean() for each in (whole, part))
    assert smooth < 0.8 * rough


def test_erased_rectangle_has_the_mean_colour_in_its_share_of_the_views(streamed: DataSet) -> None:
    plain = Augmentation(resized_crop=ResizedCrop((1.0, 1.0), (1.0, 1.0)))
    erased = Augmentation(resized_crop=plain.resized_crop, erasing=0.5)
    before, after = (pixels_of(streamed, each, range(200)) for each in (plain, erased))
    changed = (before != after).any(3)
    assert 70 < changed.flatten(1).any(1).sum() < 130
    colour = torch.tensor([round(255 * value) for value in streamed.spec.mean])
    assert (after[changed] == colour).all()
    inputs = view_of(streamed.train, streamed.spec, ROWS, erased, 0).normalise(after)
    assert inputs.permute(0, 2, 3, 1)[changed].abs().max() < 0.01


def test_padding_without_effect_on_streamed_images_is_refused(streamed: DataSet) -> None:
    with pytest.raises(UsageError, match=r"data.crop_padding must be 0 for 'imagefolder', .* but got 4"):
        pixels_of(streamed, Augmentation(4))
