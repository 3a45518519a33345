"""Memory that one step has used serves the next one, and goes back to the system when the run ends."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resnet_dist.data.dataset import Dataset

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGE = 2**25
"""Bytes from which an allocation has pages of its own from the system: as many as glibc comes to by itself."""


@contextmanager
def kept_memory(dataset: object) -> Iterator[None]:
    """Keep what a run frees in its process for as long as the run lasts.

    Left to itself, glibc hands back what large tensors had, and the system clears each page anew when the next tensor
    needs it: on a CPU a tenth of a step. Only where all images are held: those that are decoded during a run leave gaps
    of every size, and its memory grew without end. Other C libraries are left as they are.
    """
    library = _glibc() if isinstance(dataset, Dataset) else None
    if library is None:
        yield
        return
    give_back()  # what decoding left
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(M_MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        give_back()


def give_back() -> None:
    """Give back what is free: before and after something else than steps, whose tensors do not fit the gaps."""
    if library := _glibc():
        library.malloc_trim(0)


def _glibc() -> Any:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "mallopt") else None
