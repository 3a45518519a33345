"""A data source of the user's own, checked as it is decoded."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_dist.custom_code import call, fingerprint, installed, one_line, part
from resnet_dist.data.decoded_images import ARRAY_TYPES, IMAGE_SHAPE, DecodedImages
from resnet_dist.errors import DataError, UserError


def cache_entry(source: str, cache: Path) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's entry in the cache directory, and what decodes it."""
    readable = re.sub(r"\W+", "-", source)
    return f"custom-{readable}-{fingerprint(part(installed(), [source]))}", functools.partial(custom_images, source)


def custom_images(source: str) -> DecodedImages:
    """Call `module:callable` for the images; a `DataError` of one line says what is wrong with them."""
    place = f"data.source: {source!r}"
    try:
        images = call("data.source", source)
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{place}: {one_line(error)}") from error
    if not isinstance(images, DecodedImages):
        raise DataError(f"{place}: gives a {type(images).__name__}, no resnet_dist.extension.DecodedImages")
    for name, dtype in ARRAY_TYPES.items():
        array = getattr(images, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            given = getattr(array, "dtype", type(array).__name__)
            raise DataError(f"{place}: {name} is {given}; it must be a NumPy array of {dtype}")
    for split in ("train", "test"):
        pixels, labels = getattr(images, f"{split}_images"), getattr(images, f"{split}_labels")
        if pixels.shape != (len(labels), *IMAGE_SHAPE) or labels.ndim != 1 or (split == "test" and not len(labels)):
            raise DataError(
                f"{place}: {split}_images has shape {list(pixels.shape)} and {split}_labels {list(labels.shape)}; "
                "they must be [N, 3, 32, 32] and [N], N of the test images at least 1"
            )
        if not len(labels):
            continue  # which is enough for `evaluate`
        if labels.min() < 0 or labels.max() >= len(images.classes):
            raise DataError(f"{place}: {split}_labels are not all from 0 to {len(images.classes) - 1}, the last class")
    return images
