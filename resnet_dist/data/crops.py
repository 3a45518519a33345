"""What is cut out of an image, for training and for the test, as functions of random words.

`paper` is the recipe of He et al. 2015 and Krizhevsky et al. 2012, `today` that of torchvision's reference script.
Lengths are given as parts of `size`, so that a recipe for 224 pixels is the same one for others.
"""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resnet_dist.data import random_draws as draws
from resnet_dist.data.image_decoding import middle, resized, scaled

WORDS = 48
"""Random words of an image: at most four for each try of `today`, or nine for `paper`."""
_TRIES = 10
_COLOUR_DEVIATION = 0.1

SCALES = (224, 256, 384, 480, 640)
"""Shorter sides at which He et al. 2015 test whole images of 224 pixels."""

Box = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image."""


def training_crop(pixels: Tensor, size: int, augmentation: str, words: NDArray[np.uint64]) -> Tensor:
    """What a network is trained on of a picture, uint8 [3, H, W] → [3, size, size]; words: uint64 [WORDS]."""
    if augmentation == "shift":
        return middle(pixels, size)
    box = {"paper": paper_box, "today": today_box}[augmentation]
    height, width = pixels.shape[1:]
    return scaled(pixels, box(height, width, words), size)


def test_crop(pixels: Tensor, size: int, augmentation: str) -> Tensor:
    """What a network is tested on, uint8 [3, H, W] → [3, size, size]: the middle, of 7/8 of the shorter side."""
    if augmentation == "shift":
        return middle(pixels, size)
    height, width = pixels.shape[1:]
    side = max(1, round(min(height, width) * 7 / 8))
    return scaled(pixels, ((height - side) // 2, (width - side) // 2, side, side), size)


def test_views(pixels: Tensor, size: int, crops: str) -> list[Tensor]:
    """What a network is tested on in several views, of which it takes the mean: uint8 [3, H, W] → [3, H', W'] each.

    `ten`: the middle and the corners, squares of 7/8 of the shorter side, and these mirrored (Krizhevsky 2012).
    `scales`: the whole image with a shorter side of `size`, 8/7 of it and so on, and these mirrored.
    """
    height, width = pixels.shape[1:]
    short = min(height, width)
    if crops == "ten":
        side = max(1, round(short * 7 / 8))
        down, right = height - side, width - side
        corners = ((down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right))
        views = [scaled(pixels, (*corner, side, side), size) for corner in corners]
    else:
        sides = [max(1, round(size * side / SCALES[0])) for side in SCALES]
        views = [resized(pixels, round(height * side / short), round(width * side / short)) for side in sides]
    return [*views, *(view.flip(2) for view in views)]


def paper_box(height: int, width: int, words: NDArray[np.uint64]) -> Box:
    """A square anywhere, whose side the shorter side of the image has 8/7 to 15/7 of: 256 to 480 for 224."""
    scale, down, right = draws.uniform(words[:3])
    side = max(1, round(min(height, width) / (8 / 7 + scale)))
    return int(down * (height - side + 1)), int(right * (width - side + 1)), side, side


def today_box(height: int, width: int, words: NDArray[np.uint64]) -> Box:
    """8 to 100 % of the area at 3/4 to 4/3, where it fits within ten tries; else the most of the middle."""
    for area, ratio, down, right in draws.uniform(words[: 4 * _TRIES]).reshape(_TRIES, 4):
        pixels = height * width * (0.08 + 0.92 * area)
        shape = math.exp(math.log(3 / 4) + ratio * (math.log(4 / 3) - math.log(3 / 4)))
        rows, columns = round(math.sqrt(pixels / shape)), round(math.sqrt(pixels * shape))
        if 0 < rows <= height and 0 < columns <= width:
            return int(down * (height - rows + 1)), int(right * (width - columns + 1)), rows, columns
    rows, columns = min(height, round(width / (3 / 4))), min(width, round(height * (4 / 3)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def colour_shifts(words: NDArray[np.uint64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the colours of `paper` add to each image by channel, [B, 3], from 0 to 255; words: uint64 [B, WORDS].

    Along each principal component of the training images' colours, a normal number times its variance in units of 1.
    """
    variances, components = np.linalg.eigh(covariance / 255**2)
    normal = draws.normal(words[:, 3:9].ravel()).reshape(-1, 3)
    shifts: NDArray[np.float64] = 255 * (_COLOUR_DEVIATION * normal * variances) @ components.T
    return shifts
