"""Where epochs begin. A plan of a thousand runs asks this, too, and loads no torch for it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochPlan:
    """Where epochs begin and how many images each step's batch has."""

    images: int
    """Training images, N."""
    batch_size: int
    sampling: str

    def first_step(self, epoch: int) -> int:
        """First step of an epoch, counted from 0.

        With replacement an epoch ends, as in the study's code, at the step at which another N images have been
        seen: 390 or 391 steps for 50,000 images in batches of 128. A permutation ends with a smaller batch.
        """
        if self.sampling == "permutation":
            return epoch * math.ceil(self.images / self.batch_size)
        return -(-epoch * self.images // self.batch_size)

    def epoch(self, step: int) -> int:
        """The epoch to which a step belongs."""
        if self.sampling == "permutation":
            return step // math.ceil(self.images / self.batch_size)
        return step * self.batch_size // self.images

    def size(self, step: int) -> int:
        """Images in the batch of a step."""
        if self.sampling == "replacement":
            return self.batch_size
        position = (step - self.first_step(self.epoch(step))) * self.batch_size
        return min(self.batch_size, self.images - position)

    @property
    def smallest(self) -> int:
        """Images in the smallest batch: the last one of a permutation has what is left."""
        return self.size(self.first_step(1) - 1)
