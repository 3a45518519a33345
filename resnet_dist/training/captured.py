"""The update as one CUDA graph, replayed for every step.

A small network's update is some five hundred kernels, each shorter than its launch: a GPU would wait for the host. A
graph is launched as one. What a step is told lies in the GPU's memory, for many steps at once: a counter there says
which of them comes next, and a replay needs nothing else. Its numbers are the eager update's, by the same kernels.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.training.capturable import is_capturable
from resnet_dist.training.update import Update
from resnet_dist.workers import Workers

CHUNK = 64
"""Steps whose draws and numbers are made at a time, while the GPU computes those before them."""
WARM = 3
"""Updates of this process that run eagerly first: they choose kernels and make the solver's state."""
_ONE_AT_A_TIME = threading.Lock()


def can_be_captured(config: TrainingConfig, workers: Workers) -> bool:
    """Whether a run's updates are replayed from a graph: on a GPU, if they can be."""
    return is_capturable(config) and workers.size == 1 and workers.device.type == "cuda"


def capture(call: Callable[[], None]) -> Callable[[], None]:
    """What replays the kernels of a call, which is not carried out. The current stream must not be the default one."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    with _ONE_AT_A_TIME, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        call()
    return graph.replay


class CapturedUpdates:
    """Updates of a run one after another, replayed where the batch has its usual size."""

    def __init__(self, update: Update) -> None:
        self.update = update
        self._replay: Callable[[], None] | None = None
        self._warm = 0
        self._steps = range(0)  # whose draws and numbers are on the device, and not yet used
        self._filled = 0
        size, device = update.config.data.batch_size, update.device
        self._drawn = torch.zeros(CHUNK, size, update.batches.width, dtype=torch.int64, device=device)
        self._numbers = torch.zeros(CHUNK, len(update.numbers(0)), dtype=torch.float64, device=device)
        self._losses = torch.zeros(CHUNK, update.gradients.columns, dtype=torch.float64, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)

    def at(self, step: int) -> Tensor:
        """See `Update.at`. What is returned is overwritten some steps later."""
        update = self.update
        if update.plan.size(step) != update.config.data.batch_size or self._warm < WARM:
            self._warm += 1
            return update.at(step)
        if not self._steps or self._steps[0] != step:
            self._fill(step)
        if self._replay is None:
            self._replay = capture(self._next)
        place = self._filled - len(self._steps)
        self._steps = self._steps[1:]
        self._replay()
        return self._losses[place]

    def _fill(self, first: int) -> None:
        """Bring the draws and numbers of the next steps; nobody waits."""
        update, last = self.update, first + 1
        while last < first + CHUNK and self._is_usual(last):
            last += 1
        self._steps = range(first, last)
        self._filled = len(self._steps)
        numbers = torch.tensor([update.numbers(step) for step in self._steps], dtype=torch.float64)
        for held, values in ((self._drawn, update.batches.drawn(self._steps)), (self._numbers, numbers)):
            held[: self._filled].copy_(update.batches.on_device(values))
        self._place.zero_()

    def _is_usual(self, step: int) -> bool:
        return step < self.update.total_steps and self.update.plan.size(step) == self.update.config.data.batch_size

    def _next(self) -> None:
        """The update at the next place of what is on the device."""
        drawn, numbers = (values.index_select(0, self._place).squeeze(0) for values in (self._drawn, self._numbers))
        loss = self.update.compute(drawn, numbers)
        self._losses.index_copy_(0, self._place, loss[None])
        self._place.add_(1)
