"""Memory that one step has used serves the next one, and goes back to the system when the run ends."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
SYSTEMS_OWN = (2**30, 2**25)
"""Bytes from which an allocation gets pages of its own from the system: the first that this glibc takes."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep what a run frees in its process for as long as the run lasts.

    Left to itself, glibc hands back what large tensors had, and the system clears each page anew when the next tensor
    needs it: on a CPU a tenth of a step and a third of an evaluation. Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "mallopt"):
        yield
        return
    assert library is not None
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    any(library.mallopt(M_MMAP_THRESHOLD, size) for size in SYSTEMS_OWN)
    try:
        yield
    finally:
        library.malloc_trim(0)
