import re
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageMode
from PIL.TiffImagePlugin import OPEN_INFO

from lineage.data.decoding import CONVERTED_MODES, TRANSPARENT_MODES, WIDE_MODES, decode_rgb
from lineage.errors import IntegrityError

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "real-images.md"
DEEP = np.array([[0, 257, 3000], [25000, 55000, 65535]], np.uint16)
SCALED = np.array([[0, 1, 12], [97, 214, 255]])
SINCE_13 = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13,
    reason="Pillow before 13 cannot read the YCbCr TIFF that it writes",
)


def decode(image: Image.Image | bytes, file_format: str = "PNG", **options: object) -> np.ndarray:
    buffer = BytesIO(image if isinstance(image, bytes) else b"")
    if isinstance(image, Image.Image):
        image.save(buffer, file_format, **options)
        buffer.seek(0)
    decoded = decode_rgb(buffer, "a.png")
    assert decoded.dtype == np.uint8
    assert decoded.shape[2:] == (3,)
    return decoded


def tiff(
    pixels: bytes, bits: int, photometric: int = 1, sample_format: int = 1, shape: tuple[int, int] = (2, 3)
) -> bytes:
    """A TIFF of one grey strip, for the kinds that Pillow reads but does not write."""
    tags = [(256, shape[1]), (257, shape[0]), (258, bits), (259, 1), (262, photometric), (273, 122)]
    tags += [(277, 1), (278, shape[0]), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    entries = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + entries + pixels


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_of_16_bits_is_scaled_to_8(file_format: str) -> None:
    assert (decode(Image.fromarray(DEEP), file_format) == SCALED[..., None]).all()


def test_big_endian_grey_of_16_bits_is_scaled_to_8() -> None:
    image = Image.frombytes("I;16B", (3, 2), DEEP.byteswap().tobytes())
    assert (decode(image, "TIFF") == SCALED[..., None]).all()


def test_tiff_whose_white_is_zero_is_inverted() -> None:
    assert (decode(tiff(DEEP.tobytes(), 16, photometric=0)) == 255 - SCALED[..., None]).all()


def test_tiff_of_12_bits_is_scaled_by_its_own_range() -> None:
    assert decode(tiff(bytes([0x00, 0x0F, 0xFF]), 12, shape=(1, 2)))[0, :, 0].tolist() == [0, 255]


def test_transparent_grey_of_16_bits_becomes_white() -> None:
    decoded = decode(Image.fromarray(DEEP), transparency=3000)
    assert decoded[..., 0].tolist() == [[0, 1, 255], [97, 214, 255]]


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "P", "RGB")),
        *(("TIFF", mode) for mode in ("1", "L", "P", "RGB", "CMYK")),
        pytest.param("TIFF", "YCbCr", marks=SINCE_13),
        *(("JPEG", mode) for mode in ("1", "L", "RGB", "CMYK", "YCbCr")),
    ],
)
def test_opaque_images_are_converted_as_pillow_does(file_format: str, mode: str) -> None:
    image = Image.linear_gradient("L").convert("RGB")
    image = (image.point(lambda value: 255 * (value > 99)) if mode == "1" else image).convert(mode)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decode(image, file_format) - expected).max() <= (9 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "palette alpha", "RGB", "L"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (90, 90, 90, 255))
    options: dict[str, object] = {}
    if mode in {"RGB", "L"}:
        options["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    if mode in {"P", "palette alpha"}:
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 90, 90, 90])
        image.putpixel((1, 0), 1)
        options["transparency"] = 0 if mode == "P" else b"\0\xff"
    else:
        image = image.convert(mode)
    assert decode(image, **options)[0].tolist() == [[255] * 3, [90] * 3]


def test_half_transparent_pixel_is_blended_with_white() -> None:
    assert decode(Image.new("RGBA", (1, 1), (200, 0, 0, 51)))[0, 0].tolist() == [244, 204, 204]


def test_opaque_image_with_alpha_keeps_its_colours() -> None:
    image = Image.linear_gradient("L").convert("RGBA")
    assert (decode(image) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize(("mode", "data"), [
    ("F", Image.new("F", (2, 3))),
    ("I", Image.new("I", (2, 3))),
    ("LAB", Image.new("LAB", (2, 3))),
])  # fmt: skip
def test_mode_without_a_known_range_is_refused_by_name(mode: str, data: Image.Image) -> None:
    with pytest.raises(IntegrityError, match=f"but has mode '{mode}' of TIFF; save it with 8 bits"):
        decode(data, "TIFF")


def test_every_mode_of_pillow_is_decoded_or_refused_by_name() -> None:
    for mode in {*Image.MODES, *(mode for mode, _ in OPEN_INFO.values())}:
        known = mode in {*CONVERTED_MODES, *TRANSPARENT_MODES, *WIDE_MODES}
        assert known or mode in {"F", "HSV", "LAB", "I;16L", "I;16N"}, f"{mode} is new in Pillow"
        assert ImageMode.getmode(mode).mode == mode


def test_page_lists_every_mode() -> None:
    listed = set(re.findall(r"`([^`]+)`", PAGE.read_text().partition("## Kinds of images")[2]))
    assert listed >= {*CONVERTED_MODES, *TRANSPARENT_MODES, *WIDE_MODES, "F", "LAB"}


def test_image_with_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    for width in (limit + 1, 60_000 * 10_000):
        header = b"P5 %d 1 255\n" % width  # the pixels are not there: nobody asks for them
        with pytest.raises(IntegrityError, match=rf"at most {limit} pixels, but has {width}; make"):
            decode(header)


def test_bytes_of_no_image_are_refused_without_a_python_object() -> None:
    with pytest.raises(IntegrityError, match="but is not: no known format begins so; replace"):
        decode(b"no image")
