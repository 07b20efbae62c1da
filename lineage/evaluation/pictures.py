"""Test images that a registered version was measured on, read where this user has them, and as pictures."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lineage.data.datasets import load_dataset
from lineage.data.images import Images, MemoryImages
from lineage.display.figures.values import Pixels
from lineage.errors import IntegrityError, LineageError
from lineage.evaluation.data_index import require_named, stored_recipe
from lineage.recipe import DataSettings, Sections, parse_settings
from lineage.registry.packing.record import DataRecord

LONGEST_EDGE = 96  # pixels of a picture


class OtherContentsError(IntegrityError):
    """The images found are not those that the version was measured on."""


class _Settings(Sections):
    data: DataSettings


def picture_settings(
    settings: Mapping[str, Any], data: DataRecord, overrides: Sequence[str] = ()
) -> DataSettings:
    """Return the settings that the test images of a version are read with on this machine.

    Args:
        settings: Resolved recipe of the version; empty for an adopted network.
        data: Its data set.
        overrides: Texts ``data.key=value`` that say where the images are.

    Raises:
        LineageError: If settings or overrides cannot be read, or only the registry asks for a download.
    """
    _, height, width = data.input_shape
    described: dict[str, Any] = {"name": data.name, "image_size": height if height == width else None}
    if settings:
        described = stored_recipe(json.dumps(settings), data).data.model_dump(exclude_none=True)
    found = parse_settings(_Settings, {"data": described}, overrides).data
    require_named(found, data.name, data.digest)
    return found


def read_test_part(settings: DataSettings, data: DataRecord) -> Images:
    """Read the test part of the data set that a version was measured on.

    Raises:
        OtherContentsError: If the contents found are not those of ``data``.
        LineageError: If there is no such data set on this machine, or it is damaged.
    """
    found = load_dataset(
        settings.name,
        settings.root,
        settings.download,
        settings.image_size,
        settings.test,
        settings.options,
    )
    if found.spec.digest != data.digest:
        raise OtherContentsError(
            f"The pictures are not at hand: '{found.spec.name}' here has other contents than the version was"
            " measured on."
        )
    return found.test


def picture(images: Images, row: int) -> Pixels:
    """Return an image as colours, uint8, shape (H, W, 3), made smaller where it is large."""
    from PIL import Image

    pixels = images.pixels[row] if isinstance(images, MemoryImages) else images.read(row).permute(1, 2, 0)
    found = pixels.numpy()
    coloured = np.repeat(found, 3, axis=2) if found.shape[2] == 1 else found[:, :, :3]
    if max(coloured.shape) <= LONGEST_EDGE:
        return coloured
    small = Image.fromarray(np.ascontiguousarray(coloured))
    small.thumbnail((LONGEST_EDGE, LONGEST_EDGE))
    return np.asarray(small)


def picture_address(images: Images, row: int) -> str | None:
    """Return an image as a ``data:`` address for a page, such as ``data:image/png;base64,…``.

    It is PNG, with every pixel; from ``LONGEST_EDGE`` pixels on, JPEG, since photographs are made smaller.
    None if the image cannot be decoded.
    """
    from PIL import Image

    try:
        found = picture(images, row)
    except LineageError:
        return None
    kind, options = ("jpeg", {"quality": 88}) if max(found.shape) == LONGEST_EDGE else ("png", {})
    packed = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(found)).save(packed, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(packed.getvalue()).decode()}"
