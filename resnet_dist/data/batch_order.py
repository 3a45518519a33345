"""Which images a step's batch has, in what order, and how each is shifted and flipped: functions of (seed, step).

Every worker draws the whole batch and takes its own slice, so the batch does not depend on the number of workers
(law 1), and a run that resumes at any step draws what it would have drawn (law 2).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data import random_draws as draws
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.data.random_draws import Stream


@dataclass(frozen=True)
class Draw:
    """One step's whole batch, before any image is touched."""

    indices: NDArray[np.int64]
    """Positions in the training set, [B]."""
    shifts: NDArray[np.int64]
    """Pixels by which each image moves down and right, [B, 2], each from -shift to +shift."""
    flips: NDArray[np.bool_]
    """Which images are mirrored after the shift, [B]."""


class BatchOrder:
    """Draws the batch of any step."""

    def __init__(self, data: DataConfig, images: int, seed: int, augmentation_seed: int | None = None) -> None:
        self.plan = EpochPlan(images, data.batch_size, data.sampling)
        self.data = data
        self.seed = seed
        self.augmentation_seed = seed if augmentation_seed is None else augmentation_seed
        self._permutation: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def draw(self, step: int) -> Draw:
        """The batch of a step, counted from 0 over the whole run."""
        size = self.plan.size(step)
        if self.data.sampling == "replacement":
            indices = draws.integers(draws.raw(self.seed, Stream.ORDER, step, size), self.plan.images)
        else:
            epoch = self.plan.epoch(step)
            position = (step - self.plan.first_step(epoch)) * self.data.batch_size
            indices = self._epoch_permutation(epoch)[position : position + size]
        bits = draws.raw(self.augmentation_seed, Stream.AUGMENTATION, step, 3 * size).reshape(size, 3)
        shifts = draws.integers(bits[:, :2], 2 * self.data.shift + 1) - self.data.shift
        flips = draws.integers(bits[:, 2], 2).astype(bool)
        return Draw(indices, shifts, flips if self.data.flip else np.zeros(size, bool))

    def _epoch_permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._permutation[0] != epoch:
            self._permutation = (epoch, self._order_of(epoch))
        return self._permutation[1]

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        return draws.permutation(draws.raw(self.seed, Stream.ORDER, epoch, self.plan.images))
