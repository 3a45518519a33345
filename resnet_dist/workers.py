"""The workers of one run, as the training loop sees them: who this one is, and what they compute together.

Every collective of a run goes through here, batch norm's and DistributedDataParallel's excepted.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from resnet_dist.errors import UserError

T = TypeVar("T")

FIRST_GPU = torch.device("cuda", 0)
"""The first of the GPUs that are visible to this process."""


@dataclass(frozen=True)
class Shards:
    """How a batch, or a set of images, is cut up, and which of the pieces one worker holds."""

    count: int
    """Pieces in all: as many as workers, or the virtual shards of exact mode."""
    held: range
    """The pieces that this worker holds."""

    def bounds(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Parts [start, stop) of a range that the worker holds: sizes differ by at most one, some may be empty."""
        size = stop - start
        return [(start + size * s // self.count, start + size * (s + 1) // self.count) for s in self.held]


@dataclass(frozen=True)
class Workers:
    """This worker among `size` workers of a run. With `size` 1 no process group is needed."""

    rank: int
    size: int
    device: torch.device
    side_by_side: int = 1
    """Runs that share the device, at most."""

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the results."""
        return self.rank == 0

    def shards(self, virtual: int | None = None) -> Shards:
        """One piece for each worker, or, of a number of virtual shards, those that this worker holds."""
        if virtual is None:
            return Shards(self.size, range(self.rank, self.rank + 1))
        return Shards(virtual, range(virtual * self.rank // self.size, virtual * (self.rank + 1) // self.size))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the workers, in place; one collective."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """The rows of all workers' virtual shards, [count, …], from this worker's, [shards held, …]; one collective."""
        if self.size == 1:
            return rows
        held = [Workers(rank, self.size, self.device).shards(count).held for rank in range(self.size)]
        most = max(map(len, held))  # every message has the same size, padded where a worker holds a shard less
        message = rows.new_zeros((most, *rows.shape[1:]))
        message[: len(rows)] = rows
        messages = message.new_empty((self.size, *message.shape))
        dist.all_gather(list(messages), message)
        return torch.cat([part[: len(shards)] for part, shards in zip(messages, held, strict=True)])

    def broadcast(self, value: Any) -> Any:
        """The first worker's value, on every worker."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def all(self, value: T) -> list[T]:
        """The values of all workers, in order of rank, on every worker."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


def take_turns() -> None:
    """Keep this process's threads, on Linux, from interrupting one another whenever one of them wakes up.

    Gloo has a thread that waits for messages and one that sends and answers them under a lock. Where workers have no
    more processors than they are, the first one wakes up, takes the processor from the second one, and asks for its
    lock in a loop until its time is over: a collective takes five times as long (`python -m benchmarks.collectives`).
    Threads made later are like the thread that makes them.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or has another policy that we may not change
            os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let operations of this process use so many threads during the block: sums are cut up by them, and round so."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(wanted: str, gpu: torch.device = FIRST_GPU) -> torch.device:
    """The device of a worker from `run.device`; a `UserError` if CUDA is asked for and there is none."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("run.device: this machine has no CUDA device that PyTorch can use; leave it out or give cpu")
    return gpu if available and wanted != "cpu" else torch.device("cpu")


def on_device(device: torch.device) -> torch.device:
    """Make a GPU the current one of this thread, if it is one; returns it."""
    # What is not told a device takes the current one: NCCL for objects, CUDA itself for a context.
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def alone(device: str = "auto") -> Workers:
    """The only worker of a run that trains in this process."""
    return Workers(rank=0, size=1, device=on_device(choose_device(device)))


def current(device: str = "auto", gpu: torch.device = FIRST_GPU) -> Workers:
    """This worker of the process group that has been formed."""
    return Workers(dist.get_rank(), dist.get_world_size(), on_device(choose_device(device, gpu)))
