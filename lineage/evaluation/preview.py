"""``lineage data preview``: training images and their augmented views as one picture."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lineage.data.views import View, view_of
from lineage.display.figures.style import draw
from lineage.display.figures.views import ROW_HEIGHT, Picture, Row, paint_views
from lineage.errors import UsageError
from lineage.evaluation.data import augmentation_of, read_split
from lineage.recipe import DataSettings, load_recipe, require_effect

_ENDINGS = (".png", ".svg")
_PICTURES_A_ROW = 6


def preview(
    recipe: str, file: Path, num_images: int = 6, num_views: int = 5, *, overrides: Sequence[str] = ()
) -> list[Row]:
    """Draw some training images and the views that the first epochs show of them.

    Args:
        recipe: Name of a shipped recipe, or path of a TOML file; its section ``[data]`` counts.
        file: Picture to write, ``.png`` or ``.svg``; an existing one is overwritten.
        num_images: Images, taken at even distances from all that train.
        num_views: Views of each.
        overrides: Texts ``data.key=value``.

    Returns:
        What is drawn.

    Raises:
        UsageError: If the file has another ending or cannot be written, or the settings do not fit the data.
        NotFoundError: If there is no such recipe, or the images are not there.
    """
    if file.suffix not in _ENDINGS:
        raise UsageError(f"A preview must be a file {' or '.join(_ENDINGS)}, but got '{file}'; rename it.")
    used = [f"data.{key}" for key in DataSettings.model_fields if key != "workers"]
    require_effect(overrides, used, "a preview")
    rows = read_views(load_recipe(recipe, overrides).data, num_images, num_views)
    height = ROW_HEIGHT * len(rows) * _PICTURES_A_ROW / (num_views + 1)
    drawing = draw(height, lambda figure: paint_views(figure, rows))
    try:
        file.write_bytes(drawing.png if file.suffix == ".png" else drawing.svg.encode())
    except OSError as error:
        raise UsageError(
            f"'{file}' must be writable, but is not: {error.strerror}; give another name."
        ) from None
    return rows


def read_views(data: DataSettings, num_images: int, num_views: int) -> list[Row]:
    """Return training images and their views from number 1, which is that of the first epoch."""
    split_data = read_split(data)
    images, spec, indices = split_data.dataset.train, split_data.dataset.spec, split_data.train
    plain = view_of(images, spec, indices, None, data.seed)
    augmented = view_of(images, spec, indices, augmentation_of(data), data.seed)
    places = torch.linspace(0, len(indices) - 1, min(num_images, len(indices))).long()
    shown = _pictures(plain, places)
    seen = [_pictures(augmented, number * len(indices) + places) for number in range(1, num_views + 1)]
    rows = indices[places].tolist()
    return [Row(row, image, views) for row, image, *views in zip(rows, shown, *seen, strict=True)]


def _pictures(view: View, keys: Tensor) -> list[Picture]:
    pixels, labels, _ = view.read(keys.tolist())
    shares = labels if labels.ndim == 2 else torch.eye(view.spec.num_classes)[labels]
    coloured = pixels if pixels.shape[3] == 3 else pixels[..., :1].expand(-1, -1, -1, 3)
    return [
        Picture(picture.numpy(), _named(share, view.spec.class_names))
        for picture, share in zip(coloured.to(torch.uint8), shares, strict=True)
    ]


def _named(shares: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    """Return the shares that are not 0 by the names of their classes, the largest first."""
    order = shares.argsort(descending=True)[: int((shares > 0).sum())]
    return {class_names[label]: float(shares[label]) for label in order.tolist()}
