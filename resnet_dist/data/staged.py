"""Data sets in storage, decoded, for hosts that have neither the images nor a way to download them.

    <storage>/.data/<fingerprint>/<array>.npy, meta.json    meta.json last: the data set is whole
    <storage>/.data/sources/<hash of the source>.json       which fingerprint a `data.source` had when it was staged

A run's configuration stays what it is, and so does its identity: the same `data.source` finds the staged copy where the
source itself is not at hand. A host fetches it once, into the cache that its processes share, and checks its hash.
"""

import hashlib
import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnet_dist.cache_directory import cache_directory
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.cache import CachedImages, cached, content_entry, opened
from resnet_dist.data.custom_source import code_of
from resnet_dist.data.dataset import dataset_fingerprint
from resnet_dist.data.decoded_images import ARRAY_TYPES, DecodedImages
from resnet_dist.errors import DataError
from resnet_dist.storage.interface import Storage

LOGGER = logging.getLogger(__name__)

ROOT = ".data/"


def stage(data: DataConfig, found: CachedImages, storage: Storage) -> bool:
    """Put a decoded data set into storage. False if it was there already."""
    fingerprint, images = found.fingerprint, found.images
    fresh = storage.get(_meta_key(fingerprint)) is None
    if fresh:
        for name in ARRAY_TYPES:
            buffer = io.BytesIO()
            np.save(buffer, getattr(images, name), allow_pickle=False)
            storage.put(f"{ROOT}{fingerprint}/{name}.npy", buffer.getvalue())
        meta = {"fingerprint": fingerprint, "classes": list(images.classes)}
        storage.put(_meta_key(fingerprint), (json.dumps(meta, indent=1) + "\n").encode())
    named = {"source": data.source, "fingerprint": fingerprint}
    storage.put(_source_key(data), (json.dumps(named, indent=1) + "\n").encode())
    return fresh


def bring(data: DataConfig, storage: Storage, cache: Path | None = None) -> DataConfig:
    """Have the data of a run in this host's cache if storage has it and this host lacks its source.

    Returns the configuration, with its fingerprint where storage has told it. Data that is nowhere is not brought: to
    load it says what is missing. Raises a `DataError` if what is staged is damaged.
    """
    cache = (cache or cache_directory()).absolute()
    if is_at_hand(data, cache):
        return data
    if is_custom(data.source) and not data.fingerprint:
        data = _told(data, storage, cache)
    fingerprint, meta = _found(data, storage)
    if meta is None:
        return data

    def fetch() -> DecodedImages:
        LOGGER.info("fetching %s from %s", data.source, storage.uri)
        return _fetched(storage, fingerprint, meta)

    by_content = data.identified_by_content
    cached(content_entry(fingerprint) if by_content else data.source, fetch, cache)
    return replace(data, fingerprint=fingerprint) if by_content else data


def _told(data: DataConfig, storage: Storage, cache: Path) -> DataConfig:
    """The data of a source of the user's own with its fingerprint, if it was staged, as this text has it.

    Files that it reads may have changed since: while it can be called, what it gives decides.
    """
    staged, meta = _found(data, storage)
    if meta is None:
        return data
    try:
        return replace(data, fingerprint=dataset_fingerprint(data, cache))
    except DataError as error:
        LOGGER.warning("%s: the images that were staged of it are used", error)
        return replace(data, fingerprint=staged)


def is_at_hand(data: DataConfig, cache: Path | None = None) -> bool:
    """Whether this host needs no copy: it has one, or the source itself, or makes the images."""
    cache = (cache or cache_directory()).absolute()
    kind, _, location = data.source.partition(":")
    if data.identified_by_content and data.fingerprint and opened(content_entry(data.fingerprint), cache):
        return True
    if data.is_streamed:
        return True  # it is read where it lies; whoever opens it says what is missing
    if kind == "folder":
        try:
            return Path(location).exists()
        except OSError:  # of a folder above it, which this user may not enter, say
            return False
    # Of a source of the user's own only its call tells, and what is staged is used before that.
    return kind == "synthetic" or (not is_custom(data.source) and opened(kind, cache) is not None)


def is_staged(data: DataConfig, storage: Storage) -> bool:
    """Whether storage has a copy of the data."""
    return _found(data, storage)[1] is not None


def _found(data: DataConfig, storage: Storage) -> tuple[str, bytes | None]:
    """Fingerprint and `meta.json` of the copy in storage; None if there is none."""
    # Of a source that its name identifies, the name decides, or its entry in the cache would be any data insisted on.
    insisted = data.fingerprint if data.identified_by_content else ""
    fingerprint = insisted or _fingerprint_of(data, storage)
    return fingerprint, storage.get(_meta_key(fingerprint)) if fingerprint else None


def _fetched(storage: Storage, fingerprint: str, meta: bytes) -> DecodedImages:
    try:
        classes = tuple(map(str, json.loads(meta)["classes"]))
        arrays: dict[str, Any] = {
            name: np.load(io.BytesIO(storage.get(f"{ROOT}{fingerprint}/{name}.npy") or b""), allow_pickle=False)
            for name in ARRAY_TYPES
        }
        images = DecodedImages(**arrays, classes=classes)
        whole = images.interleaved().fingerprint() == fingerprint
    except (ValueError, EOFError, IndexError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DataError(
            f"data.source: the copy in {storage.uri}/{ROOT}{fingerprint} is damaged; remove it, and stage it again"
        )
    return images


def _fingerprint_of(data: DataConfig, storage: Storage) -> str:
    try:
        return str(json.loads(storage.get(_source_key(data)) or b"{}").get("fingerprint", ""))
    except (ValueError, AttributeError):
        return ""


def _meta_key(fingerprint: str) -> str:
    return f"{ROOT}{fingerprint}/meta.json"


def _source_key(data: DataConfig) -> str:
    source = data.source
    if (data.resize, data.split) != ("none", 0):  # which make other images of it
        source = f"{source} {data.size} {data.resize} {data.split}"
    if is_custom(source):
        source = f"{source} {code_of(source)}"  # another text may give other images
    return f"{ROOT}sources/{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
