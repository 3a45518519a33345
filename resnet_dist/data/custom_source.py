"""A data source of the user's own, checked as it is decoded."""

import functools
import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnet_dist.configuration.data import DataConfig
from resnet_dist.custom_code import call, fingerprint, installed, one_line, part, resolve
from resnet_dist.data import image_folder
from resnet_dist.data.cache import content_entry, opened
from resnet_dist.data.decoded_images import ARRAY_TYPES, DecodedImages
from resnet_dist.errors import DataError, UserError
from resnet_dist.paths import absolute


def cache_entry(data: DataConfig, cache: Path) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's entry in the cache directory, and what decodes it."""
    source = data.source
    inputs = _inputs(source)
    if inputs is None:  # what it depends on is not known: what it gives decides
        decoded = custom_images(source).interleaved()
        key = content_entry(decoded.fingerprint())
        if opened(key, cache) is None:
            _require_again(source, decoded)
        return key, lambda: decoded
    readable = re.sub(r"\W+", "-", source)
    key = f"custom-{readable}-{code_of(source)}{_stamps(source, inputs)}"
    return key, functools.partial(_twice, source)


def code_of(source: str) -> str:
    """Fingerprint of the text of a source's modules."""
    return fingerprint(part(installed(), [source]))


def _inputs(source: str) -> list[Path] | None:
    """The files and folders that the callable says (`inputs`) its images depend on; None if it does not say."""
    said = getattr(resolve("data.source", source), "inputs", None)
    if said is None:
        return None
    if isinstance(said, str) or not all(isinstance(path, str | os.PathLike) for path in said):
        raise DataError(f"data.source: {source!r}: inputs must be a list of paths, not {said!r}")
    return [absolute(path, f"data.source: {source!r}: inputs") for path in said]


def _stamps(source: str, inputs: list[Path]) -> str:
    """A hash that changes when one of these files, or one in these folders, does; empty without inputs."""
    digest = hashlib.sha256()
    for path in inputs:
        try:
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                status = file.stat()
                found = "" if stat.S_ISDIR(status.st_mode) else image_folder.stamp(status, inodes=True)
                digest.update(f"{file}\n{found}\n".encode(errors="surrogateescape"))
        except OSError as error:
            raise DataError(
                f"data.source: {source!r}: {error.filename or path} cannot be read ({error.strerror})"
            ) from error
    return f"-{digest.hexdigest()[:16]}" if inputs else ""


def _twice(source: str) -> DecodedImages:
    decoded = custom_images(source).interleaved()
    _require_again(source, decoded)
    return decoded


def _require_again(source: str, decoded: DecodedImages) -> None:
    """Refuse a source that gives other images at each call: no launch would find the trials of the last one (law 3)."""
    if custom_images(source).interleaved().fingerprint() != decoded.fingerprint():
        raise DataError(f"data.source: {source!r}: gives other images at each call; draw them from a fixed seed")


def custom_images(source: str) -> DecodedImages:
    """Call `module:callable` for the images; a `DataError` of one line says what is wrong with them."""
    place = f"data.source: {source!r}"
    try:
        images = call("data.source", source)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        remedy = "; a host without the files that it reads needs its images staged (resnet-dist data stage)"
        raise DataError(f"{place}: {one_line(error)}{remedy if isinstance(error, OSError) else ''}") from error
    if not isinstance(images, DecodedImages):
        raise DataError(
            f"{place}: gives a value of type {type(images).__name__}, no resnet_dist.extension.DecodedImages"
        )
    classes = images.classes
    named = isinstance(classes, tuple | list) and all(isinstance(name, str) for name in classes)
    if not named or len(set(classes)) < max(2, len(classes)):
        raise DataError(f"{place}: classes are {classes!r}; they must be two or more different names")
    images = replace(images, classes=tuple(classes))
    for name, dtype in ARRAY_TYPES.items():
        array = getattr(images, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            given = getattr(array, "dtype", type(array).__name__)
            raise DataError(f"{place}: {name} is {given}; it must be a NumPy array of {dtype}")
    for split in ("train", "test"):
        pixels, labels = getattr(images, f"{split}_images"), getattr(images, f"{split}_labels")
        shape = (len(labels), 3, *2 * images.test_images.shape[-1:])
        if pixels.shape != shape or labels.ndim != 1 or (split == "test" and not len(labels)):
            raise DataError(
                f"{place}: {split}_images has shape {list(pixels.shape)} and {split}_labels {list(labels.shape)}; "
                "they must be [N, 3, S, S] and [N], S the same for all (data.size), N of the test images at least 1"
            )
        if not len(labels):
            continue  # which is enough for `evaluate`
        if labels.min() < 0 or labels.max() >= len(images.classes):
            raise DataError(f"{place}: {split}_labels are not all from 0 to {len(images.classes) - 1}, the last class")
    return images
