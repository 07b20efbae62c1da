from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pixel_operations

from lineage.data.images import DataSet, DataSpec, MemoryImages, memory_dataset
from lineage.errors import IntegrityError, UsageError
from lineage.evaluation.features import extract_features, fit_images, num_features
from lineage.models.networks import build_network
from lineage.training.devices import make_accelerator
from lineage.training.measurement import Subset

SOURCE = DataSpec(
    name="source",
    class_names=("cat", "dog"),
    superclasses=None,
    mean=(0.25, 0.5, 0.75),
    std=(0.125, 0.25, 0.5),
    input_shape=(3, 16, 16),
    digest="s" * 64,
)


class Streamed:
    """Images that are decoded when they are read."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.labels = torch.tensor([0, 1, 0])

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> Tensor:
        return torch.full((self.channels, 20, 30), 50 * index, dtype=torch.uint8)


def images(shape: tuple[int, int, int], size: int = 9) -> MemoryImages:
    height, width, channels = shape
    generator = torch.Generator().manual_seed(size)
    pixels = torch.randint(0, 256, (size, height, width, channels), generator=generator, dtype=torch.uint8)
    return MemoryImages(pixels, torch.arange(size) % 3)


def dataset(shape: tuple[int, int, int]) -> DataSet:
    return memory_dataset("target", images(shape, 9), images(shape, 6), "abc")


def network(input_shape: tuple[int, int, int] = (3, 16, 16)) -> Any:
    torch.manual_seed(0)
    built = build_network("resnet8", 2, input_shape, {"width": 4})
    built(torch.randn(32, *input_shape))  # running statistics that are not the initial ones
    return built.eval()


def part(rows: Tensor, batch_size: int = 4) -> Subset:
    fitted = fit_images(dataset((16, 16, 3)), SOURCE, "models:/x/1").dataset
    return Subset(fitted.train, rows, fitted.spec, batch_size)


def test_images_that_fit_stay_as_they_are() -> None:
    own = dataset((16, 16, 3))
    fitted = fit_images(own, SOURCE, "models:/x/1")
    assert fitted.notes == ()
    assert isinstance(fitted.dataset.test, MemoryImages)
    assert torch.equal(fitted.dataset.test.pixels, own.test.pixels)  # type: ignore[union-attr]


def test_description_has_the_networks_normalisation_and_the_targets_classes() -> None:
    own = dataset((8, 8, 1))
    spec = fit_images(own, SOURCE, "models:/x/1").dataset.spec
    assert (spec.mean, spec.std) == (SOURCE.mean, SOURCE.std)
    assert spec.input_shape == SOURCE.input_shape
    assert (spec.name, spec.class_names) == ("target", ("a", "b", "c"))
    assert spec.digest == own.spec.digest


def test_grey_is_repeated_and_sizes_are_changed_with_antialiasing() -> None:
    own = dataset((40, 24, 1))
    fitted = fit_images(own, SOURCE, "models:/x/1")
    assert fitted.notes == (
        "Images are resized from 40×24 to 16×16 pixels.",
        "Grey is repeated to 3 channels.",
    )
    part = fitted.dataset.train
    assert isinstance(part, MemoryImages)
    assert isinstance(own.train, MemoryImages)
    one = pixel_operations.resize(own.train.pixels[4].permute(2, 0, 1), [16, 16], antialias=True)
    assert part.pixels.shape == (9, 16, 16, 3)
    assert part.pixels.is_contiguous()
    for channel in range(3):
        assert torch.equal(part.pixels[4, :, :, channel], one[0])


def test_streamed_grey_is_repeated_when_it_is_read() -> None:
    spec = replace(dataset((8, 8, 1)).spec, input_shape=(1, 224, 224))
    fitted = fit_images(DataSet(Streamed(1), Streamed(1), spec), SOURCE, "models:/x/1")
    assert fitted.notes == ("Images are resized to 16×16 pixels.", "Grey is repeated to 3 channels.")
    assert not isinstance(fitted.dataset.test, MemoryImages)
    assert fitted.dataset.test.read(2).shape == (3, 20, 30)
    rows = Subset(fitted.dataset.test, torch.arange(3), fitted.dataset.spec, 2)
    assert extract_features(make_accelerator(), network(), rows, "models:/x/1").shape == (3, 16)


def test_colour_does_not_become_grey() -> None:
    grey = replace(SOURCE, mean=(0.5,), std=(0.5,), input_shape=(1, 16, 16))
    with pytest.raises(UsageError) as refusal:
        fit_images(dataset((16, 16, 3)), grey, "models:/x/1")
    assert str(refusal.value) == (
        "models:/x/1 must be given images of 1 channel, but those of 'target' have 3; take a network of 3"
        " channels or another data set."
    )


@pytest.mark.parametrize("batch_size", [2, 4, 100])
def test_features_are_those_of_the_normalised_images_in_order(batch_size: int) -> None:
    rows = torch.tensor([7, 2, 3, 8, 0])
    looked_at = part(rows, batch_size)
    found = extract_features(make_accelerator(), network(), looked_at, "models:/x/1")
    assert isinstance(looked_at.images, MemoryImages)
    scaled = looked_at.images.pixels[rows].permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (SOURCE.mean, SOURCE.std))
    with torch.no_grad():
        wanted = network().features((scaled - mean) / std)
    assert found.dtype == torch.float32
    assert found.shape == (5, 16)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_features_leave_the_network_as_it_was() -> None:
    ours, before = network(), network().state_dict()
    extract_features(make_accelerator(), ours.train(), part(torch.arange(9)), "models:/x/1")
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_features_are_the_same_again() -> None:
    first, second = (
        extract_features(make_accelerator(), network(), part(torch.arange(9)), "models:/x/1")
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_features_that_are_not_finite_are_refused() -> None:
    broken = network()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(
        IntegrityError, match="models:/x/1 must be finite, but those of 9 of 9 images of 'target' are not"
    ):
        extract_features(make_accelerator(), broken, part(torch.arange(9)), "models:/x/1")


def test_number_of_features_is_found_without_changing_the_mode() -> None:
    ours = network().train()
    assert num_features(ours, (3, 16, 16)) == 16
    assert ours.training
