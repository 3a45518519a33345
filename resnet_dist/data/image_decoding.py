"""An image file of 32x32 pixels, decoded."""

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Raster formats alone: Pillow would start Ghostscript for an EPS file."""

SIZE = (32, 32)


class NotAnImageError(ValueError):
    """Something that a data set cannot have; the message goes on after the file's name."""


def decode_image(data: bytes) -> tuple[bytes, str]:
    """Pixels of an image file as bytes [32, 32, 3], and what the decoder warned of, or nothing.

    Transparency is dropped. Raises a `NotAnImageError`.
    """
    # One thread: decoding so small an image is mostly Python, and two threads took half as long again.
    from PIL import Image

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                size, mode = image.size, image.mode
                # The size stands in the header, so a huge image is never decoded.
                pixels = _rgb(image).tobytes() if size == SIZE else b""
        except Image.DecompressionBombError as error:
            raise NotAnImageError("is a huge picture; every image must be 32x32 pixels") from error
        except Exception as error:  # Pillow's decoders raise nearly everything on corrupt files
            raise NotAnImageError(f"is not an image that can be decoded ({', '.join(FORMATS)})") from error
    if size != SIZE:
        raise NotAnImageError(f"is {size[0]}x{size[1]} pixels; every image must be 32x32")
    if mode == "F" or mode.startswith("I"):
        raise NotAnImageError("has more than 8 bits a channel; convert it to 8 bits")
    return pixels, " ".join(str(warned[0].message).split()) if warned else ""


def _rgb(image: "Picture") -> "Picture":
    # Pillow warns of a palette with transparency unless it is asked for that first.
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")
