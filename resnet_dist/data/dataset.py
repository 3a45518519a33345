"""The images of a run: loaded from any source through the cache, limited, and split for validation."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnet_dist.cache_directory import cache_directory
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import SOURCES, DataConfig
from resnet_dist.data.cache import CachedImages, cached, content_entry, opened
from resnet_dist.data.decoded_images import DecodedImages
from resnet_dist.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_dist.data.batches import Standardiser, TrainingBatches
    from resnet_dist.data.sharded import ShardedDataset
    from resnet_dist.data.streamed_images import StreamedImages
    from resnet_dist.workers import Shards


@dataclass(frozen=True)
class Dataset:
    """Images and labels in main memory, and the constants that standardise them."""

    source: str
    """`data.source` as configured."""
    train_images: "Tensor"
    """uint8 [N, 3, S, S], S being `data.size`, balanced by class in every prefix."""
    train_labels: "Tensor"
    """int64 [N]."""
    validation_images: "Tensor"
    """uint8 [V, 3, S, S], held out from the end of the training images; V is `data.holdout`."""
    validation_labels: "Tensor"
    """int64 [V]."""
    test_images: "Tensor"
    """uint8 [M, 3, S, S]."""
    test_labels: "Tensor"
    """int64 [M]."""
    classes: tuple[str, ...]
    """Name of each class."""
    fingerprint: str
    """Hash of the whole source before limits and holdout: 16 hexadecimal digits."""
    mean: "Tensor"
    """float64 [3, S, S]: mean of `train_images` at each pixel and channel, in units of the raw values 0 to 255."""
    std: float
    """Standard deviation of all values of `train_images` about their one overall mean, in the same units. (The
    study's code takes it of the raw data, before it subtracts the per-pixel mean.)"""

    def batches(
        self, standardise: "Standardiser", data: DataConfig, seed: int, augmentation_seed: int, shards: "Shards"
    ) -> "TrainingBatches":
        """What gives a run its batches."""
        from resnet_dist.data.batches import TrainingBatches

        return TrainingBatches(self.train_images, self.train_labels, standardise, data, seed, shards, augmentation_seed)

    def counts(self) -> dict[str, int]:
        """How many images there are to train on, held out and to test on, and of how many classes."""
        sets = {"train": self.train_images, "validation": self.validation_images, "test": self.test_images}
        return {name: len(images) for name, images in sets.items()} | {"classes": len(self.classes)}


@dataclass(frozen=True)
class LabelledImages:
    """The test images of a source, and what their labels mean."""

    images: "Tensor | StreamedImages"
    """uint8 [M, 3, S, S]."""
    labels: "Tensor"
    """int64 [M], indices into `classes`."""
    classes: tuple[str, ...]
    """Name of each class."""
    fingerprint: str
    """Hash of the whole source before limits: 16 hexadecimal digits."""


def open_dataset(data: DataConfig, cache: Path | None = None) -> "Dataset | ShardedDataset":
    """What `data` asks for: in memory as `load_dataset` has it, or read from shards as it is needed."""
    if not data.is_streamed:
        return load_dataset(data, cache)
    from resnet_dist.data.sharded import open_shards, sharded_dataset

    _, index = open_shards(data)
    if not len(index.train):
        raise DataError(f"data.source: {data.source} has no training images (resnet-dist evaluate alone does without)")
    used, kept = _training_counts(data, len(index.train))
    return sharded_dataset(data, used, kept, _limit(data, "test_limit", len(index.test)))


def load_dataset(data: DataConfig, cache: Path | None = None) -> Dataset:
    """Load what `data` asks for, decoding the source if it is not in the cache.

    Images stay in memory-mapped files that the processes of a host share. Raises `DataError` if the source is
    missing or damaged, differs from `data.fingerprint`, or has too few images.
    """
    import torch

    source = load_source(data, cache)
    images = source.images
    used, kept = _training_counts(data, len(images.train_labels))
    tested = _limit(data, "test_limit", len(images.test_labels))
    # A run loads its data twice: to know what they are, and to train.
    if (known := (source.fingerprint, used)) not in _STANDARDISATIONS:
        _STANDARDISATIONS[known] = _standardisation(images.train_images[:used])
    mean, std = _STANDARDISATIONS[known]
    if not std:
        raise DataError(f"data.source: all training images of {data.source} are one flat colour")
    train_images, train_labels = torch.from_numpy(images.train_images), torch.from_numpy(images.train_labels)
    return Dataset(
        source=data.source,
        train_images=train_images[:used],
        train_labels=train_labels[:used],
        validation_images=train_images[used:kept],
        validation_labels=train_labels[used:kept],
        test_images=torch.from_numpy(images.test_images)[:tested],
        test_labels=torch.from_numpy(images.test_labels)[:tested],
        classes=images.classes,
        fingerprint=source.fingerprint,
        mean=torch.from_numpy(mean),
        std=std,
    )


def load_test_images(data: DataConfig, cache: Path | None = None) -> LabelledImages:
    """Load the test images of `data` alone; a folder or archive needs no others.

    Raises `DataError` as `load_dataset` does for the source and `data.test_limit`.
    """
    import torch

    if data.is_streamed:
        from resnet_dist.data.sharded import open_shards, sharded_dataset

        _, index = open_shards(data)
        found = sharded_dataset(data, 0, 0, _limit(data, "test_limit", len(index.test)))
        return LabelledImages(found.test_images, found.test_labels, found.classes, found.fingerprint)
    source = load_source(data, cache, training=False)
    tested = _limit(data, "test_limit", len(source.images.test_labels))
    return LabelledImages(
        torch.from_numpy(source.images.test_images)[:tested],
        torch.from_numpy(source.images.test_labels)[:tested],
        source.images.classes,
        source.fingerprint,
    )


def load_source(data: DataConfig, cache: Path | None = None, training: bool = True) -> CachedImages:
    """The whole source of `data`, before limits and holdout, and its fingerprint. It is decoded if need be.

    Raises `DataError` if the source is missing or damaged, differs from `data.fingerprint`, or has no training images
    though they are wanted for `training`.
    """
    if data.is_streamed:
        raise DataError(f"data.source: {data.source} lies in storage already, and is not decoded into memory")
    cache = (cache or cache_directory()).absolute()
    known = content_entry(data.fingerprint)
    if data.identified_by_content and data.fingerprint and (entry := opened(known, cache)):
        _require_size(data, entry.images)
        return entry  # whether the source itself is at hand or not
    key, decode = _decoder(data, cache)
    found = cached(key, decode, cache)
    if data.fingerprint not in ("", found.fingerprint):
        raise DataError(
            f"data.fingerprint: {data.source} has the fingerprint {found.fingerprint}, not {data.fingerprint}; "
            f"give the images that the configuration was made for, or leave data.fingerprint out"
        )
    _require_size(data, found.images)
    if training and not len(found.images.train_labels):
        form = "images in train/; it must hold train/<class>/<image> and test/<class>/<image>"
        lacks = form if data.source.startswith("folder:") else "training images"
        raise DataError(f"data.source: {data.source} has no {lacks} (resnet-dist evaluate alone does without)")
    return found


def _require_size(data: DataConfig, images: DecodedImages) -> None:
    rows, columns = images.test_images.shape[2:]
    if (rows, columns) != (data.size, data.size):
        raise DataError(
            f"data.size: the images of {data.source} are {rows}x{columns} pixels, not {data.size}x{data.size}; "
            f"give data.size {rows}"
        )


def dataset_fingerprint(data: DataConfig, cache: Path | None = None) -> str:
    """Fingerprint of the source of `data`: 16 hexadecimal digits.

    It is read from the cache; a source that is not there is decoded first. Raises `DataError` as `load_dataset`
    does for the source, and if `data.fingerprint` is set and differs.
    """
    if data.is_streamed:
        from resnet_dist.data.sharded import open_shards

        return open_shards(data)[1].fingerprint
    return load_source(data, cache).fingerprint


def dataset_sizes(data: DataConfig, cache: Path | None = None) -> tuple[int, int]:
    """Training and test images of the source of `data`, before limits and holdout. It is decoded if need be."""
    if data.is_streamed:
        from resnet_dist.data.sharded import open_shards

        _, index = open_shards(data)
        return len(index.train), len(index.test)
    images = load_source(data, cache).images
    return len(images.train_labels), len(images.test_labels)


def _decoder(data: DataConfig, cache: Path) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's cache entry, and what decodes it."""
    custom = is_custom(data.source)
    module = importlib.import_module(
        "resnet_dist.data.custom_source" if custom else SOURCES[data.source.partition(":")[0]]
    )
    entry: tuple[str, Callable[[], DecodedImages]] = module.cache_entry(data, cache)
    return entry


def _training_counts(data: DataConfig, available: int) -> tuple[int, int]:
    """Images to train on, and with those held out for validation."""
    kept = _limit(data, "train_limit", available)
    used = kept - data.holdout
    if used < data.batch_size:
        held = f" less the {data.holdout} of data.holdout" if data.holdout else ""
        raise DataError(
            f"data.batch_size: a batch of {data.batch_size} needs as many training images, and there are "
            f"{kept}{held}; lower data.batch_size{' or data.holdout' if data.holdout else ''}"
        )
    return used, kept


def _limit(data: DataConfig, name: str, available: int) -> int:
    limit: int = getattr(data, name)
    if limit > available:
        raise DataError(f"data.{name}: {limit} is more than the {available} images of {data.source}; 0 takes all")
    return limit or available


_STANDARDISATIONS: dict[tuple[str, int], tuple[NDArray[np.float64], float]] = {}
"""Mean and deviation of what this process has loaded, by fingerprint and number of images."""


def _standardisation(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
    """Per-pixel mean, float64 [3, S, S], and overall standard deviation, from exact integer sums."""
    sums = np.zeros(images.shape[1:], np.int64)
    squares = 0
    # In pieces that stay in the processor's cache, whose sums of values fit 32 bits.
    for first in range(0, len(images), 256):
        piece = images[first : first + 256]
        sums += piece.sum(axis=0, dtype=np.uint32)
        squares += int(np.square(piece, dtype=np.uint16).sum(dtype=np.uint64))
    count, total = images.size, int(sums.sum())
    variance = (count * squares - total * total) / (count * count)
    return sums / len(images), math.sqrt(variance)
