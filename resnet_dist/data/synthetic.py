"""The built-in data set: ten textures that a network has to learn to see.

Each class is a pattern (rows, columns, diagonals, checks, rings) at one of two scales. Where the pattern lies, its
phase, its exact period, its two colours, which of them is the brighter, the background and the noise are drawn anew
for every image, so the classes have the same mean and a linear classifier on pixels learns next to nothing. Every
class looks the same in a mirror, so that flipped images keep their label.

The bytes are the same on every machine and with every version of NumPy: draws are raw words of the Philox4x64-10
counter generator, turned into numbers by integer arithmetic alone.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.decoded_images import DecodedImages

VERSION = 1
"""Names the cached arrays. Raise it when a change to this file changes an image."""

TRAIN_IMAGES = 10_000
TEST_IMAGES = 2_000

PATTERNS = ("rows", "columns", "diagonals", "checks", "rings")
PERIODS = {"fine": (4, 6), "coarse": (8, 11)}
"""Least and greatest period of each scale, in pixels."""

CLASSES = tuple(f"{scale} {pattern}" for scale in PERIODS for pattern in PATTERNS)

_KEY = 20_160_204
_PARAMETER_WORDS = 24
_CHUNK_PIXELS = 500 * 32 * 32  # of the images drawn at a time; bounds memory and changes nothing else

_NOISE = 88
"""Width of the uniform noise added to every value, of 256."""
_CONTRAST = (6, 96)
"""Least and greatest difference of the pattern's two colours; each channel departs from it by up to a quarter. The
faintest are lost in the noise, so that no network is ever perfect."""
_RADIUS = (9, 15)
"""Least and greatest radius of the disc in which the pattern shows, in pixels."""

_ROOTS = np.array([math.isqrt(square) for square in range(2 * 64 * 64)], np.int32)


def cache_entry(data: DataConfig, cache: Path) -> tuple[str, Callable[[], DecodedImages]]:
    """Name of the source's entry in the cache directory, and what decodes it."""
    suffix = "" if data.size == 32 else f"-{data.size}"
    return f"{data.source}-{VERSION}{suffix}", functools.partial(synthetic_images, data.size)


def synthetic_images(size: int = 32) -> DecodedImages:
    """The whole data set, 10,000 training and 2,000 test images of so many rows and columns."""
    count = TRAIN_IMAGES + TEST_IMAGES
    chunk = max(1, _CHUNK_PIXELS // size**2)
    images = np.concatenate([draw_images(first, min(chunk, count - first), size) for first in range(0, count, chunk)])
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    return DecodedImages(
        train_images=images[:TRAIN_IMAGES],
        train_labels=labels[:TRAIN_IMAGES],
        test_images=images[TRAIN_IMAGES:],
        test_labels=labels[TRAIN_IMAGES:],
        classes=CLASSES,
    )


def draw_images(first: int, count: int, size: int = 32) -> NDArray[np.uint8]:
    """Images `first` to `first + count - 1`, each a function of number and size: uint8 [count, 3, size, size].

    Image i is of class i modulo 10. Its figure is drawn on 32 × 32 points whatever the size, its noise on every pixel.
    """
    noise_words = -(-3 * size**2 // 32) * 4  # eight bytes a word, four words a Philox block
    words_each = _PARAMETER_WORDS + noise_words
    # The counter counts blocks: image i takes words_each / 4 of them from i * words_each / 4 on.
    generator = np.random.Philox(key=_KEY, counter=first * words_each // 4)
    words = generator.random_raw(count * words_each).reshape(count, words_each)
    draws = _Draws(words[:, :_PARAMETER_WORDS])
    places = np.arange(size, dtype=np.int32) * 32 // size
    row, column = places[None, :, None], places[None, None, :]
    label = np.arange(first, first + count) % len(CLASSES)

    first_colour = _pattern(label, draws, row, column)
    inside = _disc(draws, row, column)
    background = draws.colour(64, 191)
    brighter = 2 * draws.between(0, 1)[:, None] - 1
    strength = draws.between(*_CONTRAST)
    contrast = (strength[:, None] + draws.colour(-strength // 4, strength // 4)) * brighter
    figure = np.where(inside, np.where(first_colour, contrast, -contrast) // 2, 0)  # int32 [count, 3, size, size]
    noise = words[:, _PARAMETER_WORDS:].astype("<u8").view(np.uint8)[:, : 3 * size**2].reshape(count, 3, size, size)
    values: NDArray[np.int32] = background + figure + (noise.astype(np.int32) * _NOISE >> 8) - _NOISE // 2
    return np.clip(values, 0, 255).astype(np.uint8)


class _Draws:
    """Takes the parameter words of each image one after the other."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words  # uint64 [count, _PARAMETER_WORDS]
        self.taken = 0

    def between(self, low: int | NDArray[np.int32], high: int | NDArray[np.int32]) -> NDArray[np.int32]:
        """Whole numbers from `low` to `high`, both included: int32 [count, 1, 1]."""
        word = (self.words[:, self.taken] >> np.uint64(32)).astype(np.int64)[:, None, None]
        self.taken += 1
        span = np.asarray(high, np.int64) - low + 1
        return (low + (word * span >> 32)).astype(np.int32)

    def colour(self, low: int | NDArray[np.int32], high: int | NDArray[np.int32]) -> NDArray[np.int32]:
        """One draw for each channel: int32 [count, 3, 1, 1]."""
        return np.stack([self.between(low, high) for _ in range(3)], axis=1)


def _pattern(
    label: NDArray[np.int64], draws: _Draws, row: NDArray[np.int32], column: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Where the figure of each image has its first colour: bool [count, 1, size, size]."""
    scale = (label // len(PATTERNS))[:, None, None]
    low, high = (np.array([periods[end] for periods in PERIODS.values()], np.int32) for end in (0, 1))
    period = draws.between(low[scale], high[scale])
    phase, other_phase = draws.between(0, 63), draws.between(0, 63)
    direction = 2 * draws.between(0, 1) - 1

    def bands(distance: NDArray[np.int32], width: NDArray[np.int32] = period) -> NDArray[np.bool_]:
        return 2 * ((distance + phase) % width) < width

    rows = bands(row)
    columns = bands(column)
    # Across a diagonal a step of one pixel covers 1 / sqrt(2) of a pixel: 7 / 5 makes up for it.
    diagonals = bands(row + direction * column, period * 7 // 5)
    checks = rows ^ (2 * ((column + other_phase) % period) < period)
    down, right = row - draws.between(4, 27), column - draws.between(4, 27)
    rings = bands(_ROOTS[down * down + right * right])
    drawn = (rows, columns, diagonals, checks, rings)
    which = (label % len(PATTERNS))[:, None, None]
    return np.select([which == index for index in range(len(PATTERNS))], drawn)[:, None]


def _disc(draws: _Draws, row: NDArray[np.int32], column: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where the figure shows: bool [count, 1, size, size]."""
    radius = draws.between(*_RADIUS)
    down, right = row - draws.between(8, 23), column - draws.between(8, 23)
    return (down * down + right * right <= radius * radius)[:, None]
