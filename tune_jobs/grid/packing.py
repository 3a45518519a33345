"""How many trials share a GPU: as many as gain by it, as was measured, and as its memory holds."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.custom_code import named
from resnet_dist.errors import UserError
from resnet_dist.training.capturable import is_capturable
from tune_jobs.grid.data_sizes import image_memory
from tune_jobs.grid.machines import Machine, machine

MEASURED_ON = "H100"
"""The GPU whose gain is taken for that of others."""

SHARE = 0.9
"""Of a GPU's memory, which runs may take together."""

CONTEXT_MEMORY = 2**30
"""Bytes of CUDA's context and libraries, once for all runs of a process."""

RUN_MEMORY = 2**28
"""Bytes that a run takes beyond what it computes with: workspaces, the test's batches, what the allocator keeps."""

KEPT = 3 * 4
"""Bytes for each output of a convolution, at most, that the forward pass keeps: three values in float32."""


MOST = 32
"""Streams that PyTorch has on a GPU: one more run would share the stream of another."""


@dataclass(frozen=True)
class Packing:
    """How many trials are to share each GPU, of those that gain by it."""

    count: int = 1
    gain: float = 1.0
    """What so many do in an hour, beside one alone."""
    why: str = ""
    """In words; empty if there is nothing to say, since no trial is on a GPU."""
    is_asked: bool = False
    """Whether somebody has said so: else networks that were not measured have a GPU to themselves."""

    def of(self, config: TrainingConfig) -> int:
        """Trials that share the GPU of this one."""
        return self.count if _may_share(config) and (self.is_asked or _was_measured(config)) else 1

    def slowed(self, config: TrainingConfig) -> float:
        """How many times as long as alone a trial takes."""
        return self.count / self.gain if self.of(config) > 1 else 1.0


def choose(runs: Sequence[TrainingConfig], gpus: int, memory: int, asked: int | None = None) -> Packing:
    """How runs that are to come share so many GPUs.

    More at a time do more in an hour, up to the most that was measured: so it is as many as `memory` holds, a GPU's in
    bytes, 0 if it is not known, and no more than leave work for each GPU. `asked`: the number, whatever the choice
    would be.
    """
    if asked is not None:
        return Packing(asked, gain_of(asked), "as asked for", is_asked=True)
    alike = [config for config in runs if _may_share(config) and _was_measured(config)]
    if not alike:
        return Packing(why="only captured updates of the study's networks are known to gain beside others")
    largest = max(run_memory(config) for config in alike)
    takes = f"each takes up to {largest / 2**30:.1f} GiB{f' of its {memory / 2**30:.0f}' if memory else ''}"
    room = (SHARE * memory - CONTEXT_MEMORY) // largest if memory else math.inf
    each = math.ceil(len(alike) / max(1, gpus))
    count = int(min(room, each, max(_measured().side_by_side)))
    if count < 2:
        return Packing(why="there are no more trials than GPUs" if each < 2 else takes)
    gain = gain_of(count)
    return Packing(
        count, gain, f"{gain:.3g} × the trials an hour, measured on an {MEASURED_ON}, 20 layers in bfloat16; {takes}"
    )


def require_streams(asked: int | None) -> None:
    """Refuse a number of runs on one GPU for which it has no streams."""
    if asked is not None and not 1 <= asked <= MOST:
        raise UserError(f"side_by_side: {asked} is not allowed; it must be from 1 to {MOST}")


def gain_of(count: int) -> float:
    """What so many runs on one GPU do in an hour, beside one alone: on the line between two that were measured."""
    known = [(1, 1.0), *_measured().side_by_side.items()]
    for (low, less), (high, more) in pairwise(known):
        if count <= high:
            return less + (more - less) * (count - low) / (high - low)
    return known[-1][1]


def run_memory(config: TrainingConfig) -> int:
    """Bytes of a GPU that a run of the study's networks takes, at most: images, weights, what updates keep."""
    network, data = config.network, config.data
    # The three stages have as many convolutions each, of 1, 1/2 and 1/4 of the first one's values.
    values = data.batch_size // data.accumulation * network.channels * data.size**2 * network.depth * 7 / 12
    # Theirs have 9 c² weights for c channels, of which the stages have 1, 2 and 4 times as many. There are as many
    # gradients, and at most two numbers for each that a solver keeps.
    weights = 9 * network.channels**2 * network.depth * 7
    return int(image_memory(config) + 4 * 4 * weights + KEPT * values + RUN_MEMORY)


def _may_share(config: TrainingConfig) -> bool:
    """Python's lock lets threads take turns, so only captured updates gain beside others.

    A run with code of the user's own, which may change what it likes of its process, has that to itself.
    """
    run = config.run
    return run.workers == 1 and run.device != "cpu" and is_capturable(config) and not named(config)


def _was_measured(config: TrainingConfig) -> bool:
    try:
        _measured().update(config)
    except UserError:
        return False
    return config.data.batch_size == _measured().batch_size


@functools.cache
def _measured() -> Machine:
    return machine(MEASURED_ON)
