"""Decoder of images in any mode that files have to 8-bit RGB."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffTags import TAGS_V2

from lineage.data.workers import RetoldError
from lineage.errors import IntegrityError
from lineage.formats import first_line

CONVERTED_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
"""Modes of 8 bits or less per channel, which Pillow converts to RGB."""
TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
"""Modes with an alpha channel, which are shown over white."""
WIDE_MODES = {
    "I;16": ("PNG", "TIFF", "JPEG2000"),
    "I;16B": ("TIFF",),
    "I": ("PNG", "PPM"),  # PNG in Pillow before 11
}
"""Modes of 16-bit grey, and the formats in which they are that; elsewhere their range is unknown."""

_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_FIRST_NUMBER = re.compile("[0-9]+")
_BITS, _PHOTOMETRIC = (
    next(tag for tag, info in TAGS_V2.items() if info.name == name)
    for name in ("BitsPerSample", "PhotometricInterpretation")
)
_TAIL = 64  # bytes


class ImageError(RetoldError, IntegrityError):
    """An image cannot be read."""


def decode_rgb(source: Path | IO[bytes], where: str) -> NDArray[np.uint8]:
    """Decode the first frame of an image; torchvision's decoders are deprecated since 0.29.

    Transparent pixels are shown over white, and 16-bit grey is scaled to 8 bits.

    Args:
        source: Encoded image.
        where: Name of the image in error messages.

    Returns:
        Decoded image, shape (H, W, 3).

    Raises:
        ImageError: If the image cannot be decoded, has too many pixels, or has a mode without a known
            range.
    """
    with _opened(source, where) as image:
        return _to_rgb(image, where)


def check_image(source: Path | IO[bytes], where: str) -> None:
    """Check an image without decoding it: its header, its mode, its size, and the end of a JPEG or PNG.

    An image without its end is decoded, since decoders forgive some. Other damage goes unnoticed.

    Args:
        source: Encoded image.
        where: Name of the image in error messages.

    Raises:
        ImageError: If the image is broken, has too many pixels, or has a mode without a known range.
    """
    with _opened(source, where) as image:
        _require_known_mode(image, where)
        end = _ENDS.get(image.format or "")
        if end is not None and isinstance(image, ImageFile.ImageFile) and image.fp is not None:
            position = image.fp.tell()
            image.fp.seek(0, SEEK_END)
            image.fp.seek(max(0, image.fp.tell() - _TAIL))
            whole = end in image.fp.read()
            image.fp.seek(position)
            if not whole:
                image.load()


@contextmanager
def _opened(source: Path | IO[bytes], where: str) -> Iterator[Image.Image]:
    """Open an image; whatever Pillow raises within the block is an ``ImageError``."""
    try:
        with warnings.catch_warnings():
            # Pillow warns above this size and raises above twice of it, both before it decodes
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{where} must have at most {Image.MAX_IMAGE_PIXELS} pixels, but has "
            f"{_FIRST_NUMBER.findall(str(error))[0]}; make it smaller or remove it."
        ) from error
    except UnidentifiedImageError as error:
        raise _not_decodable(where, "no known format begins so") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _not_decodable(where, first_line(error)) from error


def _not_decodable(where: str, reason: str) -> ImageError:
    return ImageError(f"{where} must be an image that decodes, but is not: {reason}; replace or remove it.")


def _to_rgb(image: Image.Image, where: str) -> NDArray[np.uint8]:
    """Convert an open image to RGB, shape (H, W, 3)."""
    _require_known_mode(image, where)
    if image.mode in WIDE_MODES:
        return _scale_grey(image)
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")  # the only conversion that Pillow has for it
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _require_known_mode(image: Image.Image, where: str) -> None:
    is_wide = image.format in WIDE_MODES.get(image.mode, ())
    if not is_wide and image.mode not in CONVERTED_MODES + TRANSPARENT_MODES:
        raise ImageError(
            f"{where} must have a mode whose range of values is known, but has mode '{image.mode}' of "
            f"{image.format}; save it with 8 bits per channel."
        )


def _scale_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Scale grey of up to 16 bits to 0..255; Pillow would cut it off at 255."""
    grey, largest = np.asarray(image).astype(np.int64), 2**16 - 1
    transparent = grey == image.info.get("transparency", -1)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        largest = 2 ** tags[_BITS][0] - 1
        if tags[_PHOTOMETRIC] == 0:  # white is zero: Pillow inverts only up to 8 bits
            grey = largest - grey
    scaled = ((grey * 510 + largest) // (2 * largest)).astype(np.uint8)  # round(grey / largest * 255)
    scaled[transparent] = 255
    return np.repeat(scaled[..., None], 3, axis=2)
