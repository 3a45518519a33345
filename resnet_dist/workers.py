"""The workers of one run, as the training loop sees them: who this one is, and what they compute together.

Every collective of a run goes through here, batch norm's and DistributedDataParallel's excepted.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from resnet_dist.errors import UserError


@dataclass(frozen=True)
class Workers:
    """This worker among `size` workers of a run. With `size` 1 no process group is needed."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the results."""
        return self.rank == 0

    def slice(self, start: int, stop: int) -> tuple[int, int]:
        """This worker's part [start, stop) of a range: contiguous, sizes differing by at most one, maybe empty."""
        count = stop - start
        return start + count * self.rank // self.size, start + count * (self.rank + 1) // self.size

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the workers, in place; one collective."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Any) -> Any:
        """The first worker's value, on every worker."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """The device of a worker from `run.device`; a `UserError` if CUDA is asked for and there is none."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "run.device: this machine has no CUDA device that PyTorch can use; leave out --device or give cpu"
        )
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def alone(device: str = "auto") -> Workers:
    """The only worker of a run that trains in this process."""
    return Workers(rank=0, size=1, device=choose_device(device))


def current(device: str = "auto", local_rank: int = 0) -> Workers:
    """This worker of the process group that has been formed."""
    return Workers(dist.get_rank(), dist.get_world_size(), choose_device(device, local_rank))
