"""Random draws as functions of (seed, stream, index), the same on every worker, machine and release.

Philox is a counter-based generator: any draw can be made without those before it, so a run that resumes, or has
another number of workers, draws what it would have drawn. Only its raw 64-bit output is used, which NumPy
guarantees never to change; its sampling methods carry no such promise.

Source of Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What draws are for. Each purpose has its own key, so that one never shifts another."""

    WEIGHTS = 1
    ORDER = 2
    AUGMENTATION = 3
    CROP = 4
    SHARDS = 5
    CUTOUT = 6
    COLOUR = 7
    TRANSFORM = 8
    MIXUP = 9
    NETWORK = 10


def raw(seed: int, stream: Stream, index: int, count: int) -> NDArray[np.uint64]:
    """`count` uniform 64-bit integers, shape [count]; the first ones do not depend on `count`."""
    counter = [0, index, 0, 0]  # the generator advances the first word alone: 2^64 blocks for each index
    return np.random.Philox(key=[seed, int(stream)], counter=counter).random_raw(count)


def integers(bits: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
    """Uniform integers in [0, bound) from raw draws, each from its upper 32 bits.

    Multiply and shift: the probabilities differ from 1 / bound by less than a factor of 1 ± bound / 2^32.
    """
    assert 0 < bound < 2**32
    return (((bits >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1), multiples of 2^-53."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Standard normal numbers, one for each pair of raw draws (Box and Muller 1958): shape [n] from [2 n]."""
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform(bits[0::2])))
    return radius * np.cos(2.0 * math.pi * uniform(bits[1::2]))


def permutation(bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A uniform permutation of 0 … n-1: the order that sorts n raw draws."""
    return np.argsort(bits, kind="stable").astype(np.int64)
