"""CIFAR-10 and CIFAR-100 through torchvision's downloader, which checks their checksums."""

import contextlib
import logging
import pickle
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.cache import writing
from resnet_dist.data.decoded_images import DecodedImages
from resnet_dist.errors import DataError

LOGGER = logging.getLogger(__name__)

TIMEOUT = 20.0
"""Seconds without an answer after which a download is given up."""


def cache_entry(data: DataConfig, cache: Path) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's entry in the cache directory, and what decodes it."""

    def download() -> DecodedImages:
        directory = cache / "downloads"
        with writing(cache):
            directory.mkdir(parents=True, exist_ok=True)
        return downloaded_images(cast(Literal["cifar10", "cifar100"], data.source), directory)

    return data.source, download


def downloaded_images(name: Literal["cifar10", "cifar100"], directory: Path) -> DecodedImages:
    """Load CIFAR-10 or CIFAR-100, downloading the archive into `directory` unless it is there.

    Raises `DataError`, which says where to place the archive, if it can neither be found nor downloaded.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    archive = directory / kind.filename
    LOGGER.info("looking for %s; downloading %s if it is not there", archive, kind.url)
    try:
        with _impatient(), contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            train = kind(str(directory), train=True, download=True)
            test = kind(str(directory), train=False)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, pickle.UnpicklingError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise DataError(
            f"data.source: {name} could not be downloaded from {kind.url} ({reason}); place {kind.filename} at "
            f"{archive}, or use folder:PATH"
        ) from error
    return DecodedImages(
        *_arrays(train.data, train.targets), *_arrays(test.data, test.targets), classes=tuple(train.classes)
    )


def _arrays(data: NDArray[Any], targets: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """torchvision's images uint8 [N, 32, 32, 3] and list of labels as uint8 [N, 3, 32, 32] and int64 [N]."""
    return np.ascontiguousarray(data.transpose(0, 3, 1, 2), np.uint8), np.asarray(targets, np.int64)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    # torchvision gives no timeout and would wait for ever on a network that drops packets.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
