"""Pictures of every kind are decoded to the pixels that they show, or refused by what is wrong with them."""

import io
import struct
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_dist.data import image_decoding
from resnet_dist.data.image_decoding import NotAnImageError, decode, decode_image
from tests.image_trees import encoded, pixels

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [90, 80, 70], [250, 240, 230]]], np.uint8)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    picture.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def palette() -> Image.Image:
    """The colours by numbers from a palette."""
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "P")
    picture.putpalette(COLOURS.ravel().tolist())
    return picture


def transparent(colours: NDArray[np.uint8], mode: str) -> Image.Image:
    """A picture that is opaque at one pixel alone."""
    alpha = np.zeros((2, 3, 1), np.uint8)
    alpha[0, 0] = 255
    return Image.fromarray(np.concatenate([colours.reshape(2, 3, -1), alpha], 2), mode)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("content", ["bits", "grey", "grey and alpha", "colours and alpha", "palette"])
def test_what_is_transparent_or_numbered_has_the_colours_that_it_hides(content: str, kind: str) -> None:
    picture, expected = {
        "bits": (Image.fromarray(GREY > 90), np.where(GREY > 90, 255, 0)),
        "grey": (Image.fromarray(GREY), GREY),
        "grey and alpha": (transparent(GREY, "LA"), GREY),
        "colours and alpha": (transparent(COLOURS, "RGBA"), COLOURS),
        "palette": (palette(), COLOURS),
    }[content]
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, 2)
    found, warned = decode(saved(picture, kind))
    assert found.permute(1, 2, 0).tolist() == expected.tolist() and warned == ""


@pytest.mark.parametrize("transparency", [2, bytes([0, 128, 255, 0, 3, 4])])
def test_a_palette_with_transparency_has_its_colours_without_a_warning(transparency: int | bytes) -> None:
    found, warned = decode(saved(palette(), "PNG", transparency=transparency))
    assert found.permute(1, 2, 0).tolist() == COLOURS.tolist() and warned == ""


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_the_picture(kind: str) -> None:
    first, *others = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "white"))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    found, _ = decode(saved(first, kind, save_all=True, append_images=others, **lossless))
    assert found.flatten(1).tolist() == [[255] * 16, [0] * 16, [0] * 16]


@pytest.mark.parametrize(("shape", "said"), [((16, 32), "32x16"), ((32, 16), "16x32"), ((31, 31), "31x31")])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_of_which_one_side_has_the_size_is_refused(shape: tuple[int, int], said: str, kind: str) -> None:
    with pytest.raises(NotAnImageError, match=f"^is {said} pixels, not 32x32; give data"):
        decode_image(encoded(np.zeros((*shape, 3), np.uint8), kind), 32)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_grey_of_more_than_eight_bits_is_refused_and_not_clipped(dtype: type[np.generic]) -> None:
    with pytest.raises(NotAnImageError, match=r"^has more than 8 bits a channel; convert it to 8 bits$"):
        decode(saved(Image.fromarray(np.full((2, 2), 1000, dtype)), "TIFF"))


def test_a_huge_jpeg_is_refused_by_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(encoded(pixels(0), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    monkeypatch.setattr(image_decoding, "_load_decoder", lambda: pytest.fail("it is decoded, into 10 GB"))
    for size in (None, 60_000):
        with pytest.raises(NotAnImageError, match="is a huge picture, of more than 178,956,970 pixels"):
            decode(bytes(data), size)


def test_the_first_of_several_warnings_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = Image.Image.convert

    def warn(image: Image.Image, mode: str) -> Image.Image:
        for said in ("the first\nof two", "the second"):
            warnings.warn(said, stacklevel=1)
        return convert(image, mode)

    monkeypatch.setattr(Image.Image, "convert", warn)
    assert decode(encoded(pixels(0)))[1] == "the first of two"
