"""One pass over part of a large data set: its memory and its order follow the part."""

import resource

import torch
from torch import Tensor, nn

from lineage.data.images import DataSpec, MemoryImages
from lineage.training.devices import make_accelerator
from lineage.training.measurement import Subset, collect, measure
from lineage.training.teachers import LiveTeacher

CLASSES = 1000
SPEC = DataSpec("large", tuple(map(str, range(CLASSES))), None, (0.5,), (0.5,), (1, 2, 2), "d" * 64)


class Brightness(nn.Module):
    """The class of an image is its first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        shades = (images[:, 0, 0, 0] * 0.5 + 0.5) * 255
        return -self.scale * (torch.arange(CLASSES, device=images.device) - shades.unsqueeze(1)).abs()


def large(num_images: int) -> MemoryImages:
    """Images whose first pixel is their row modulo 251, and which are labelled with it."""
    pixels = torch.zeros(num_images, 2, 2, 1, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(num_images) % 251
    return MemoryImages(pixels, pixels[:, 0, 0, 0].long())


def test_part_of_a_large_data_set_takes_the_memory_of_the_part() -> None:
    """A hundredth of 2,000,000 images: the logits of all would take 8 GB, those of the part take 80 MB."""
    images = large(2_000_000)
    rows = torch.arange(1_000_000, 1_020_000).flip(0)
    part = Subset(images, rows, SPEC, 600)  # the last batch is smaller
    accelerator, network = make_accelerator(), Brightness()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    predicted = LiveTeacher(accelerator, network, SPEC.input_shape).predictions("test", part)
    measured = measure(
        accelerator, network, part, teacher_predictions=predicted, keep_logits=True, keep_top_classes=True
    )
    labels = collect(accelerator, network, part, lambda passed: passed["labels"], dtype=torch.int64)

    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 * 1024  # in KiB
    assert torch.equal(predicted, rows % 251)
    assert torch.equal(labels, predicted)
    assert torch.equal(measured.logits.argmax(1), predicted)
    assert measured.metrics["accuracy"] == measured.metrics["agreement"] == 1
    assert measured.top_classes is not None
    part.close()
