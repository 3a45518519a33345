"""Decoded data sets on disk, so that a source is decoded once on a host, whatever number of processes use it.

An entry is a directory of .npy arrays and `meta.json`. It is written beside its place and renamed into it, so it is
there whole or not at all; what fails the check of sizes and shapes is decoded again. The arrays are memory-mapped:
processes of one host share the pages.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from resnet_dist.data.decoded_images import ARRAY_TYPES, DecodedImages
from resnet_dist.errors import DataError
from resnet_dist.threads import repeated

LOGGER = logging.getLogger(__name__)

FORMAT = 1
"""Part of each entry's name. Raise it when what is stored, or its order, changes."""

SLOW = 10.0
"""Seconds after which whoever waits is told that images are being decoded."""


@dataclass(frozen=True)
class CachedImages:
    """A decoded data set in the cache, interleaved by class."""

    images: DecodedImages
    """Memory-mapped copy-on-write: nothing is read until it is used, and writing changes no file."""
    fingerprint: str
    """`DecodedImages.fingerprint` of the whole, as computed when it was decoded."""


def cached(key: str, decode: Callable[[], DecodedImages], cache: Path) -> CachedImages:
    """The entry `key` of the cache directory, made by `decode` if it is missing or damaged.

    One process decodes while others wait. Raises `DataError` if the directory cannot be written, and whatever
    `decode` raises, in which case no entry is left.
    """
    entry = _entry(key, cache)
    if found := _open(entry):
        return found
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f"{entry.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            LOGGER.info("waiting for another process that decodes into %s", entry)
            lock.acquire()
    try:
        if found := _open(entry):
            return found
        with repeated(
            lambda: LOGGER.info("decoding into %s, once on this machine", entry), 60, "cache", "not said", SLOW
        ):
            decoded = decode().interleaved()
        with writing(cache):
            _write(entry, decoded)
        written = _open(entry)
        assert written, f"{entry} was written and cannot be read"
        return written
    finally:
        lock.release()


def opened(key: str, cache: Path) -> CachedImages | None:
    """The entry `key` of the cache directory; None if it is missing or damaged."""
    return _open(_entry(key, cache))


def content_entry(fingerprint: str) -> str:
    """Name of the entry of images that are known by their fingerprint, wherever they came from."""
    return f"staged-{fingerprint}"


def _entry(key: str, cache: Path) -> Path:
    return cache / f"{key}-v{FORMAT}"


@contextlib.contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turn failures to write below `cache` into a `DataError` that says what to set."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # filelock: no locks on this file system
        # numpy says of a full disk how many bytes it wrote of how many.
        reason = getattr(error, "strerror", None) or ("no space left" if "requested and" in str(error) else error)
        raise DataError(
            f"the cache directory {cache} cannot be written ({reason}); set RESNET_DIST_CACHE to one that can"
        ) from error


def _open(entry: Path) -> CachedImages | None:
    """The entry, or None if it is missing or damaged."""
    try:
        meta: dict[str, Any] = json.loads((entry / "meta.json").read_text())
        arrays = {}
        for name, dtype in ARRAY_TYPES.items():
            path, expected = entry / f"{name}.npy", meta["arrays"][name]
            if path.stat().st_size != expected["bytes"]:
                raise ValueError(f"{path.name} is not of {expected['bytes']} bytes")
            # Mapped copy-on-write, since torch warns of arrays that cannot be written.
            arrays[name] = np.load(path, mmap_mode="c", allow_pickle=False)
            if arrays[name].dtype != dtype or list(arrays[name].shape) != expected["shape"]:
                raise ValueError(f"{path.name} is not {dtype} {expected['shape']}")
        images = DecodedImages(**arrays, classes=tuple(meta["classes"]))
        return CachedImages(images, meta["fingerprint"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOGGER.warning("decoding again: the cache entry %s is damaged (%s)", entry, error)
        return None


def _write(entry: Path, images: DecodedImages) -> None:
    """Make the entry, in place of a damaged one. The caller holds the lock."""
    partial = entry.with_name(f".{entry.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here
    try:
        partial.mkdir()
        arrays = {}
        for name in ARRAY_TYPES:
            array = getattr(images, name)
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                arrays[name] = {"bytes": file.tell(), "shape": array.shape}
                file.flush()
                os.fsync(file.fileno())  # or a power cut leaves files of the right size and no content
        meta = {"fingerprint": images.fingerprint(), "classes": images.classes, "arrays": arrays}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1))
        if entry.exists():
            shutil.rmtree(entry)
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
