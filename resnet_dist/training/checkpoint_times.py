"""When a run writes a checkpoint. What it is, is no part of a run's numbers, so it may follow a clock."""

import math
import time
from collections.abc import Callable

from resnet_dist.configuration.run import LONGEST, RunConfig
from resnet_dist.workers import Workers

LOOKS = 8
"""How often, at least, the first of several workers looks at its clock between two checkpoints."""


class CheckpointTimes:
    """All workers of a run take part in a checkpoint, so they agree on it, by the first one's clock.

    It tells the others rarely: each time it also says after how many updates it will look again, by the pace so far,
    which is trusted for as long again at most.
    """

    def __init__(
        self,
        run: RunConfig,
        workers: Workers,
        step: int,
        total_steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`step`: updates so far, of `total_steps` of the whole run."""
        self.run = run
        self.workers = workers
        self.total_steps = total_steps
        self.clock = clock
        self._apart = math.ceil(total_steps / run.checkpoints) if run.checkpoints else 1
        self._begin(step)

    def _begin(self, step: int) -> None:
        self._since, self._first = self.clock(), step
        self._look = step + 1

    def due(self, step: int, ended: int = 0) -> bool:
        """Whether to write one after so many updates, asked once after each; alike on every worker.

        `ended`: epochs that are over, where this update is the last of one.
        """
        run = self.run
        due = step == self.total_steps
        due |= run.checkpoint_steps > 0 and step % run.checkpoint_steps == 0
        due |= run.checkpoint_epochs > 0 and ended > 0 and ended % run.checkpoint_epochs == 0
        if not due and run.checkpoint_seconds and step >= self._look:
            wait = self.workers.broadcast(self._updates_to_go(step))
            due = wait == 0
            self._look = step + wait
        if due:
            self._begin(step)
        return due

    def _updates_to_go(self, step: int) -> int:
        """How many updates from now to look again; 0 if the time is up."""
        elapsed, updates = self.clock() - self._since, step - self._first
        seconds = self.run.checkpoint_seconds
        if elapsed >= seconds and (updates >= self._apart or elapsed >= max(seconds, LONGEST)):
            return 0
        if self.workers.size == 1:
            return 1  # nobody has to be told
        wait = seconds / LOOKS if elapsed >= seconds else min(seconds - elapsed, seconds / LOOKS)
        return max(1, min(updates, int(wait / elapsed * updates) if elapsed else updates))
