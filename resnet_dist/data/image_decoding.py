"""Image files, decoded: JPEG by torchvision's decoder, which gives Pillow's pixels in less time, the rest by Pillow.

What EXIF says of a picture's orientation is not looked at, as in torchvision's data sets.
"""

import functools
import importlib.util
import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Raster formats alone: Pillow would start Ghostscript for an EPS file."""

MOST_PIXELS = 178_956_970
"""A picture of more is not decoded; where Pillow draws the line, too."""


class NotAnImageError(ValueError):
    """Something that a data set cannot have; the message goes on after the file's name."""


def decode_image(data: bytes, size: int, crop: bool = False) -> tuple[bytes, str]:
    """Pixels of an image file as bytes [3, size, size], and what the decoder warned of, or nothing.

    With `crop`, the shorter side is scaled to `size`, and the middle taken; without, another size is refused.
    Transparency is dropped. Raises a `NotAnImageError`.
    """
    pixels, warned = decode(data, None if crop else size)
    if crop:
        pixels = middle(pixels, size)
    return pixels.numpy().tobytes(), warned


def decode(data: bytes, size: int | None = None) -> "tuple[Tensor, str]":
    """Pixels of an image file, uint8 [3, H, W], and what the decoder warned of, or nothing.

    A `size` is that of rows and columns; a picture of another one is refused before it is decoded. Raises a
    `NotAnImageError`.
    """
    found = _jpeg_size(data)
    if found and (size is None or found == (size, size)) and found[0] * found[1] <= MOST_PIXELS:
        import torch

        _load_decoder()
        try:
            # Not through torchvision's Python function, which takes as long as the decoder on a small image.
            return torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), 3, False), ""
        except RuntimeError:  # cut off, say: Pillow decides what is accepted
            pass
    return _by_pillow(data, size)


@functools.cache
def _load_decoder() -> None:
    """Have torch.ops.image: from torchvision's library alone where it is found, since the whole takes seconds."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    libraries = sorted(Path(spec.origin).parent.glob("image*.so")) if spec and spec.origin else []
    if libraries:  # image.so, or image_stable.so since torchvision 0.29
        torch.ops.load_library(libraries[0])
    else:
        importlib.import_module("torchvision.io")


def middle(pixels: "Tensor", size: int) -> "Tensor":
    """The largest square in the middle of a picture, uint8 [3, H, W], scaled to so many rows and columns."""
    height, width = pixels.shape[1:]
    side = min(height, width)
    return scaled(pixels, ((height - side) // 2, (width - side) // 2, side, side), size)


def scaled(pixels: "Tensor", box: tuple[int, int, int, int], size: int) -> "Tensor":
    """A part of a picture (top, left, height, width) as uint8 [3, size, size], bilinear, each pixel weighed."""
    top, left, height, width = box
    return resized(pixels[:, top : top + height, left : left + width], size, size)


def resized(pixels: "Tensor", height: int, width: int) -> "Tensor":
    """A picture, uint8 [3, H, W], as uint8 [3, height, width], bilinear, each pixel weighed."""
    import torch.nn.functional as F

    return F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG of 8-bit grey or colours; None of any other file, CMYK among them."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack(">BHHB", data[place + 4 : place + 10])
            plain = marker <= 0xC2 and bits == 8 and components in (1, 3) and height and width
            return (height, width) if plain else None
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def _by_pillow(data: bytes, size: int | None) -> "tuple[Tensor, str]":
    # One thread: decoding so small an image is mostly Python, and two threads took half as long again.
    import torch
    from PIL import Image

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height, mode = *image.size, image.mode
                # The size stands in the header, so a huge image is never decoded.
                wanted = size is None or (width, height) == (size, size)
                pixels = np.array(_rgb(image)) if wanted else None
        except Image.DecompressionBombError as error:
            raise NotAnImageError(f"is a huge picture, of more than {MOST_PIXELS:,} pixels") from error
        except Exception as error:  # Pillow's decoders raise nearly everything on corrupt files
            raise NotAnImageError(f"is not an image that can be decoded ({', '.join(FORMATS)})") from error
    if pixels is None:
        more = f"give data.size {width} if all are, or " if width == height else "give "
        raise NotAnImageError(
            f"is {width}x{height} pixels, not {size}x{size}; {more}data.resize crop, which makes all {size}x{size}"
        )
    if mode == "F" or mode.startswith("I"):
        raise NotAnImageError("has more than 8 bits a channel; convert it to 8 bits")
    said = " ".join(str(warned[0].message).split()) if warned else ""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), said


def _rgb(image: "Picture") -> "Picture":
    # Pillow warns of a palette with transparency unless it is asked for that first.
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")
