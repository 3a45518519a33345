"""Training batches as functions of (seed, step): which images, how they are shifted and flipped, who holds them.

Every worker draws the whole batch and takes its own slice, so the batch does not depend on the number of workers
(law 1), and a run that resumes at any step draws what it would have drawn (law 2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data import random_draws as draws
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.data.random_draws import Stream
from resnet_dist.workers import Shards


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


@dataclass(frozen=True)
class Batch:
    """One shard of a sub-batch."""

    images: Tensor
    """Standardised images [b, 3, H, W] in the channels-last memory format; b may be 0."""
    labels: Tensor
    """int64 [b]."""


class Standardiser:
    """Subtracts the per-pixel mean of the training set and divides by its one standard deviation."""

    def __init__(self, mean: Tensor, std: float, dtype: torch.dtype, device: torch.device) -> None:
        # mean: float64 [3, H, W], kept as [H, W, 3], the order in which the images lie in memory
        self.mean = mean.permute(1, 2, 0).to(device, dtype)
        self.scale = 1.0 / std

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [b, H, W, 3] → floating point, the same shape."""
        return (images.to(self.mean.dtype) - self.mean) * self.scale


def shift_and_flip(images: Tensor, shifts: Tensor, flips: Tensor, reach: int) -> Tensor:
    """Move each image by its own shift, filling with zeros, then mirror those to be flipped.

    images: [b, H, W, C]; shifts: int64 [b, 2], pixels down and right, each within ±reach; flips: bool [b].
    """
    if reach:
        count, height, width, _ = images.shape
        padded = F.pad(images, (0, 0, reach, reach, reach, reach))
        windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # [b, 2r+1, 2r+1, C, H, W], a view
        each = torch.arange(count, device=images.device)
        moved = windows[each, reach - shifts[:, 0], reach - shifts[:, 1]]  # [b, C, H, W]
        images = moved.permute(0, 2, 3, 1)
    return torch.where(flips[:, None, None, None], images.flip(2), images)


class TrainingBatches:
    """The training set on the device, and its batches."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        standardise: Standardiser,
        data: DataConfig,
        seed: int,
        shards: Shards,
        augmentation_seed: int | None = None,
    ) -> None:
        # images: uint8 [N, 3, H, W]; they stay uint8, four to eight times smaller than standardised ones
        self.device = standardise.mean.device
        self.images = images.permute(0, 2, 3, 1).contiguous().to(self.device)
        self.labels = labels.to(self.device)
        self.standardise = standardise
        self.order = BatchOrder(data, len(labels), seed, augmentation_seed)
        self.accumulation = data.accumulation
        self.shards = shards

    def drawn(self, steps: range) -> Tensor:
        """Indices, shifts down and right, and flips of steps whose batches have one size: int64 [steps, B, 4], here."""
        draws = map(self.order.draw, steps)
        return torch.from_numpy(np.stack([np.column_stack([d.indices, d.shifts, d.flips]) for d in draws]))

    def on_device(self, values: Tensor) -> Tensor:
        """A copy of values made here, where the images are, for which nobody waits."""
        if self.device.type == "cuda":
            values = values.pin_memory()  # from other memory a copy waits for all that the GPU has yet to do
        return values.to(self.device, non_blocking=True)

    def parts(self, drawn: Tensor) -> Iterator[list[Batch]]:
        """This worker's shards of each sub-batch of one step's whole batch, [B, 4] on the device."""
        parts = self.sub_batches(len(drawn))
        return ([self._batch(drawn[a:b], a) for a, b in self.shards.bounds(*part)] for part in parts)

    def sub_batches(self, size: int) -> Iterator[tuple[int, int]]:
        """Where the sub-batches of a batch of so many images begin and end."""
        count = min(self.accumulation, size)
        return pairwise(size * part // count for part in range(count + 1))

    def pixels(self, step: int, most: int) -> Tensor:
        """The first images of a step's whole batch, at most so many, shifted and flipped: uint8 [b, H, W, 3].

        The gap that a shift leaves, which the network sees as zeros, has the mean colour.
        """
        drawn = self.on_device(self.drawn(range(step, step + 1))[0, :most])
        colour = self.standardise.mean.mean((0, 1))
        moved = self._moved(drawn, self.images[drawn[:, 0]] - colour)
        return (moved + colour).round().to(torch.uint8)

    def _batch(self, drawn: Tensor, first: int) -> Batch:
        indices = drawn[:, 0]
        images = self._moved(drawn, self.standardise(self.images[indices])).contiguous()
        return Batch(images.permute(0, 3, 1, 2), self.labels[indices])  # its memory is channels last already

    def _moved(self, drawn: Tensor, images: Tensor) -> Tensor:
        return shift_and_flip(images, drawn[:, 1:3], drawn[:, 3].bool(), self.order.data.shift)
