"""What is done to training images: shifts and flips, colours, code of the user's own, cutout.

Each is a function of draws that are made for (seed, step) and each place of a batch, so that worker count and
interruptions change nothing. Mixup, which joins two images, is in `batches.py`.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resnet_dist.configuration.data import DataConfig
from resnet_dist.custom_code import resolve
from resnet_dist.data import random_draws as draws
from resnet_dist.data.random_draws import Stream
from resnet_dist.errors import ConfigurationError

OWN_NUMBERS = 16
"""Random numbers that code of the user's own gets for each image."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey of an image (ITU-R BT.601)."""


def fractions(bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Raw draws as integers of 53 bits, which `uniform` makes numbers in [0, 1) of."""
    return (bits >> np.uint64(11)).astype(np.int64)


def uniform(integers: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in [0, 1) from integers of 53 bits; in float32 they are rounded, and may be 1."""
    return (integers.to(torch.float64) * 2.0**-53).to(dtype)


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


class Augmentation:
    """What a run's data settings ask for beside shifts and flips. An augmentation that is off takes no draws."""

    def __init__(self, data: DataConfig) -> None:
        self.size, self.cutout, self.colour = data.size, data.cutout, data.colour
        self.own = resolve("data.transform", data.transform) if data.transform else None
        counts = (2 if self.cutout else 0, 3 if self.colour else 0, OWN_NUMBERS if self.own else 0)
        first, second, self.columns = (sum(counts[: place + 1]) for place in range(3))
        self._cutout, self._colour, self._own = slice(0, first), slice(first, second), slice(second, self.columns)

    def draw(self, seed: int, step: int, size: int) -> NDArray[np.int64]:
        """Draws of a whole batch: [size, columns]."""

        def raw(stream: Stream, each: int) -> NDArray[np.uint64]:
            return draws.raw(seed, stream, step, each * size).reshape(size, each)

        found = [np.empty((size, 0), np.int64)]
        if self.cutout:
            found.append(draws.integers(raw(Stream.CUTOUT, 2), self.size))
        if self.colour:
            found.append(fractions(raw(Stream.COLOUR, 3)))
        if self.own:
            found.append(fractions(raw(Stream.TRANSFORM, OWN_NUMBERS)))
        return np.concatenate(found, axis=1)

    def recoloured(self, images: Tensor, drawn: Tensor, dtype: torch.dtype) -> Tensor:
        """Images as they are, 0 to 255, [b, H, W, 3], with other colours and through the user's own code."""
        if self.colour:
            factors = 1 + self.colour * (2 * uniform(drawn[:, self._colour], dtype) - 1)
            images = jittered(images.to(dtype), factors)
        if self.own:
            numbers = uniform(drawn[:, self._own], dtype)
            planes = images.to(dtype).permute(0, 3, 1, 2)
            images = transformed(self.own, planes, numbers).permute(0, 2, 3, 1)
        return images

    def cut(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Standardised images, [b, H, W, 3], with a square of zeros about a place of each (arXiv:1708.04552)."""
        if not self.cutout:
            return images
        place = torch.arange(self.size, device=images.device)
        first = drawn[:, self._cutout] - self.cutout // 2  # [b, 2]
        inside = [(place >= at[:, None]) & (place < at[:, None] + self.cutout) for at in first.unbind(1)]  # [b, S] each
        return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0.0)


def jittered(images: Tensor, factors: Tensor) -> Tensor:
    """Images [b, H, W, 3], 0 to 255, whose brightness, contrast and saturation are multiplied by factors, [b, 3]."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(1))
    images = (images * brightness).clamp(0, 255)
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * contrast).clamp(0, 255)
    grey = _grey(images)
    return (grey + (images - grey) * saturation).clamp(0, 255)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=3)
    grey: Tensor = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return grey


def transformed(own: Callable[..., Tensor], images: Tensor, numbers: Tensor) -> Tensor:
    """What code of the user's own makes of images [b, 3, H, W]; a `ConfigurationError` if that is anything else."""
    made = own(images, numbers)
    if not isinstance(made, Tensor) or made.shape != images.shape or made.dtype != images.dtype:
        given = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise ConfigurationError(f"gives {given}, not images as it got them, {images.dtype} {list(images.shape)}")
    return made
