"""Training batches on the device: the images of a worker's slice, standardised, shifted and flipped as drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data import random_draws as draws
from resnet_dist.data.augmentation import Augmentation, fractions, shift_and_flip, uniform
from resnet_dist.data.batch_order import BatchOrder
from resnet_dist.data.random_draws import Stream
from resnet_dist.workers import Shards


@dataclass(frozen=True)
class Batch:
    """One shard of a sub-batch."""

    images: Tensor
    """Standardised images [b, 3, H, W] in the channels-last memory format; b may be 0."""
    labels: Tensor
    """int64 [b]."""
    others: Tensor | None = None
    """Labels of the images that mixup has joined to them, int64 [b]."""
    share: Tensor | None = None
    """What part of each is the image of `labels`, [b]; the rest is that of `others`."""
    keys: Tensor | None = None
    """By what a network that draws does so for each image, int64 [b]."""


class Standardiser:
    """Subtracts the per-pixel mean of the training set and divides by its one standard deviation."""

    def __init__(self, mean: Tensor, std: float, dtype: torch.dtype, device: torch.device) -> None:
        # mean: float64 [3, H, W], kept as [H, W, 3], the order in which the images lie in memory
        self.mean = mean.permute(1, 2, 0).to(device, dtype)
        self.scale = 1.0 / std

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [b, H, W, 3] → floating point, the same shape. Of another size if all pixels have one mean."""
        mean = self.mean if images.shape[1:3] == self.mean.shape[:2] else self._one_mean()
        return torch.sub(images, mean).mul_(self.scale)  # without a copy of each stage

    def _one_mean(self) -> Tensor:
        one = self.mean[:1, :1]
        assert (self.mean == one).all(), "images of another size, and a mean of each pixel"
        return one


class TrainingBatches:
    """The training set on the device, and its batches."""

    keyed = False
    """Whether each image of a batch gets a key, for a network that draws."""

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
        self.shift = data.shift
        self.order = BatchOrder(data, len(labels), seed, augmentation_seed)
        self.augmentation = Augmentation(data)
        self.accumulation = data.accumulation
        self.shards = shards

    @property
    def columns(self) -> int:
        """Numbers that are drawn for an image: index, shifts down and right, flip, and those of its augmentation."""
        return 4 + self.augmentation.columns

    @property
    def width(self) -> int:
        """Numbers drawn for a place of a batch: for its image; with mixup for another, and its share; its key."""
        return (2 * self.columns + 1 if self.order.data.mixup else self.columns) + int(self.keyed)

    def drawn(self, steps: range) -> Tensor:
        """Draws of steps whose batches have one size: int64 [steps, B, width], here."""
        return torch.from_numpy(np.stack([self._drawn_at(step) for step in steps]))

    def _drawn_at(self, step: int) -> NDArray[np.int64]:
        draw, seed = self.order.draw(step), self.order.augmentation_seed
        size = len(draw.indices)
        rows = np.column_stack([draw.indices, draw.shifts, draw.flips, self.augmentation.draw(seed, step, size)])
        if alpha := self.order.data.mixup:
            rows = np.column_stack([rows, rows[::-1], np.full(size, share_of(seed, step, alpha))])
        if self.keyed:
            rows = np.column_stack([rows, fractions(draws.raw(seed, Stream.NETWORK, step, size))])
        return rows

    def on_device(self, values: Tensor) -> Tensor:
        """A copy of values made here, where the images are, for which nobody waits."""
        if self.device.type == "cuda":
            values = values.pin_memory()  # from other memory a copy waits for all that the GPU has yet to do
        return values.to(self.device, non_blocking=True)

    def parts(self, drawn: Tensor) -> Iterator[list[Batch]]:
        """This worker's shards of each sub-batch of one step's whole batch, [B, width] on the device."""
        parts = self.sub_batches(len(drawn))
        return ([self._batch(drawn, a, b) for a, b in self.shards.bounds(*part)] for part in parts)

    def sub_batches(self, size: int) -> Iterator[tuple[int, int]]:
        """Where the sub-batches of a batch of so many images begin and end."""
        count = min(self.accumulation, size)
        return pairwise(size * part // count for part in range(count + 1))

    def pixels(self, step: int, most: int) -> Tensor:
        """The first images of a step's whole batch, at most so many, shifted and flipped: uint8 [b, H, W, 3].

        The gap that a shift leaves, which the network sees as zeros, has the mean colour.
        """
        drawn = self.on_device(torch.from_numpy(self._drawn_at(step)[:most, : self.columns]))
        return self._seen(drawn, self.images[drawn[:, 0]])

    def _seen(self, drawn: Tensor, raw: Tensor) -> Tensor:
        colour = self.standardise.mean.mean((0, 1))
        images = self.augmentation.recoloured(raw, drawn[:, 4:], colour.dtype) - colour
        moved = self.augmentation.cut(self._moved(drawn, images), drawn[:, 4:])
        return (moved + colour).round().clamp(0, 255).to(torch.uint8)

    def _batch(self, drawn: Tensor, start: int, stop: int) -> Batch:
        rows, width, end = drawn[start:stop], self.columns, len(drawn) - 1
        images = self._images(rows[:, :width], range(start, stop))
        labels, keys = self.labels[rows[:, 0]], rows[:, -1] if self.keyed else None
        if not self.order.data.mixup:
            return Batch(images.permute(0, 3, 1, 2), labels, keys=keys)  # its memory is channels last already
        other = rows[:, width : 2 * width]
        others = self._images(other, range(end - start, end - stop, -1))
        share = uniform(rows[:, 2 * width], images.dtype)
        part = share[:, None, None, None]
        joined = (images * part + others * (1 - part)).permute(0, 3, 1, 2)
        return Batch(joined, labels, self.labels[other[:, 0]], share, keys)

    def _images(self, drawn: Tensor, places: range) -> Tensor:
        """The images at some places of the step's batch, as the network gets them: [b, H, W, 3]."""
        extra, dtype = drawn[:, 4:], self.standardise.mean.dtype
        images = self.standardise(self.augmentation.recoloured(self._raw(drawn, places), extra, dtype))
        return self.augmentation.cut(self._moved(drawn, images), extra).contiguous()

    def _raw(self, drawn: Tensor, places: range) -> Tensor:
        """The same as they are, 0 to 255."""
        return self.images[drawn[:, 0]]

    def _moved(self, drawn: Tensor, images: Tensor) -> Tensor:
        return shift_and_flip(images, drawn[:, 1:3], drawn[:, 3].bool(), self.shift)


def share_of(seed: int, step: int, alpha: float) -> int:
    """How much of each image mixup leaves in a step's batch, in units of 2^-53: drawn from Beta(alpha, alpha).

    Source: arXiv:1710.09412, whose code draws one number for a batch and joins it to itself in another order.
    """
    from scipy.special import betaincinv  # here, since most runs have no use for it

    (chance,) = draws.uniform(draws.raw(seed, Stream.MIXUP, step, 1))
    return min(2**53 - 1, int(betaincinv(alpha, alpha, chance) * 2**53))
