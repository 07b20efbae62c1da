"""Previews of training images and their views."""

from pathlib import Path

import pytest
import torch

from lineage.data.datasets import load_dataset
from lineage.data.views import view_of
from lineage.errors import LineageError, RecipeError, UsageError
from lineage.evaluation.data import augmentation_of, split_dataset
from lineage.evaluation.preview import preview, read_views
from lineage.recipe import load_recipe


def test_pictures_are_the_views_of_the_first_epochs_with_their_labels() -> None:
    data = load_recipe("digits", ["data.augment.mixup=1"]).data
    rows = read_views(data, 3, 2)
    split_data = split_dataset(load_dataset("digits"), data)
    train, spec = split_data.dataset.train, split_data.dataset.spec
    view = view_of(train, spec, split_data.train, augmentation_of(data), data.seed)
    assert len(rows) == 3
    for row in rows:
        assert row.image.labels == {str(int(train.labels[row.index])): 1.0}
        position = int((split_data.train == row.index).nonzero())
        for number, picture in enumerate(row.views, start=1):
            pixels, labels, _ = view.read([number * len(split_data.train) + position])
            assert torch.equal(torch.from_numpy(picture.pixels), pixels[0].expand(-1, -1, 3).to(torch.uint8))
            assert picture.labels == {str(c): float(s) for c, s in enumerate(labels[0]) if s > 0}
            assert sum(picture.labels.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("file", "override", "error", "text"),
    [
        ("views.jpg", "data.flip=true", UsageError, "must be a file .png or .svg, but got"),
        ("nowhere/views.png", "data.flip=true", UsageError, "must be writable, but is not: No such file"),
        ("views.png", "training.lr=1", UsageError, "setting that a preview uses"),
        ("views.png", "data.crop_padding=8", UsageError, "data.crop_padding must be"),
        ("views.png", "data.augment.mixup=-1", RecipeError, "data.augment.mixup must be"),
    ],
)
def test_preview_refuses_what_it_cannot_draw(
    tmp_path: Path, file: str, override: str, error: type[LineageError], text: str
) -> None:
    with pytest.raises(error, match=text):
        preview("digits", tmp_path / file, 1, 1, overrides=[override])
    assert not list(tmp_path.iterdir())
