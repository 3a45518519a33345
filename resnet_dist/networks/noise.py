"""What a network draws while it trains, dropout and random slopes: functions of (seed, step, place in the batch).

Each image of a batch has a key that was drawn for it. A layer's numbers for it are a hash of key, layer and element, by
integers that wrap alike on every device: they depend neither on who holds the image nor on what else was drawn.
The hash is that of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_OF_THREAD = threading.local()  # the virtual shards of exact mode go forward in threads


def _signed(bits: int) -> int:
    """64 bits as torch's integers have them."""
    return (bits + 2**63) % 2**64 - 2**63


_STEP = _signed(0x9E3779B97F4A7C15)
_FACTORS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))


@contextmanager
def keyed(keys: Tensor | None) -> Iterator[None]:
    """Let the layers below take their numbers by the keys of the images that go forward in this thread, int64 [b]."""
    _OF_THREAD.keys = keys
    try:
        yield
    finally:
        _OF_THREAD.keys = None


class Noise(nn.Module):
    """A layer that draws in training; `number` tells it from the network's others."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def uniform(self, images: Tensor) -> Tensor:
        """Numbers in [0, 1) for each element of images [b, …], in steps of 2^-24."""
        keys = getattr(_OF_THREAD, "keys", None)
        assert keys is not None, "a network that draws is trained on batches with keys"
        count = math.prod(images.shape[1:])
        element = torch.arange(1, count + 1, device=images.device)
        bits = _mixed(_mixed(keys + _signed(self.number * _STEP))[:, None] + element * _STEP)
        exact = torch.float64 if images.dtype == torch.float64 else torch.float32  # which 16 bits are not
        return ((bits >> 40) & 0xFFFFFF).to(exact).mul(2.0**-24).view(images.shape)


class Dropout(Noise):
    """Zero for the given part of the values, in training; the others are scaled, so that their mean stays."""

    def __init__(self, part: float, number: int) -> None:
        super().__init__(number)
        self.part = part

    def forward(self, images: Tensor) -> Tensor:
        """The same shape."""
        if not self.training or not self.part:
            return images
        return images * (self.uniform(images) >= self.part) / (1 - self.part)


class RandomisedReLU(Noise):
    """Negative values are divided by a number drawn from a range, and in evaluation by the range's mean."""

    def __init__(self, number: int, divisors: tuple[float, float]) -> None:
        super().__init__(number)
        self.divisors = divisors

    def forward(self, images: Tensor) -> Tensor:
        """The same shape."""
        low, high = self.divisors
        divisor = low + (high - low) * self.uniform(images) if self.training else (low + high) / 2
        return torch.where(images < 0, (images / divisor).to(images.dtype), images)


def draws(network: nn.Module) -> bool:
    """Whether a network draws in training."""
    return any(isinstance(module, Noise) for module in network.modules())


def _mixed(bits: Tensor) -> Tensor:
    for shift, factor in _FACTORS:
        bits = (bits ^ _shifted(bits, shift)) * factor
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    shifted: Tensor = (bits >> by) & (2 ** (64 - by) - 1)  # torch's shift brings in the sign
    return shifted
