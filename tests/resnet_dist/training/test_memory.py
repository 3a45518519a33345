import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from resnet_dist.training.memory import kept_memory
from tests.small_runs import small_dataset

MEGABYTES = (8, 4, 30, 8, 16)
"""Of the tensors that a step holds at the same time."""


def cleared_pages() -> int:
    """How many pages the system has to clear for a step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.zeros(size * 2**20, dtype=torch.uint8) for size in MEGABYTES]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def print_cleared_pages() -> None:
    """Of the least of some steps of a run, and of one after it."""
    with kept_memory(small_dataset()):
        during = min(cleared_pages() for _ in range(20))
    print(during, cleared_pages())


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this system's C library is not glibc")
def test_a_run_of_held_images_keeps_its_memory_and_gives_it_back_at_its_end() -> None:
    # In a process of its own: what is set is set for good.
    program = "from tests.resnet_dist.training.test_memory import print_cleared_pages as p; p()"
    during, after = map(int, subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert during < 200 < sum(MEGABYTES) * 2**20 / resource.getpagesize() / 2 < after


def test_where_images_are_decoded_during_a_run_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(ctypes, "CDLL", opened.append)
    with kept_memory(None):
        pass
    assert not opened


def test_where_the_c_library_is_not_glibc_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with kept_memory(small_dataset()):
        pass
