"""Pictures of a run for TensorBoard: what the network is shown, and what it takes for what."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from resnet_dist.data.batches import TrainingBatches

SAMPLES, COLUMNS, GAP = 32, 8, 2
"""Images in the grid of training samples, images in a row, and pixels between two."""
MANY_CLASSES = 20
"""Beyond so many a confusion matrix has no room for names and numbers."""
LETTER_SIZE, NAME_LETTERS = 11, 16


@dataclass(frozen=True)
class Picture:
    """An image as TensorBoard takes it."""

    png: bytes
    width: int
    height: int


def sample_grid(batches: "TrainingBatches") -> Picture:
    """The first images of the run's first batch, shifted and flipped as the network sees them."""
    pixels = batches.pixels(0, SAMPLES).cpu()  # uint8 [n, H, W, 3]
    count, height, width, _ = pixels.shape
    rows = -(-count // COLUMNS)
    grid = np.full((rows * (height + GAP) + GAP, COLUMNS * (width + GAP) + GAP, 3), 255, np.uint8)
    for index, image in enumerate(pixels.numpy()):
        top = GAP + index // COLUMNS * (height + GAP)
        left = GAP + index % COLUMNS * (width + GAP)
        grid[top : top + height, left : left + width] = image
    return _picture(grid)


def confusion_picture(confusion: Tensor, classes: Sequence[str]) -> Picture:
    """A confusion matrix, int64 [C, C]: rows are true classes, columns those found, darker is more of the row.

    Up to `MANY_CLASSES` classes are named, and each cell holds its per cent of the row.
    """
    from PIL import Image, ImageDraw, ImageFont

    counts = confusion.numpy().astype(np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(classes) > MANY_CLASSES:
        return _picture(np.kron(_shades(shares), np.ones((6, 6, 1), np.uint8)))
    font = ImageFont.load_default(LETTER_SIZE)
    names = [name[:NAME_LETTERS] for name in classes]
    margin = 8 + int(max(font.getlength(name) for name in names))
    cell = 25  # ten classes are then as wide as TensorBoard shows an image, and stay legible
    size = margin + cell * len(classes)
    image = Image.new("RGB", (size, size), "white")
    image.paste(Image.fromarray(np.kron(_shades(shares), np.ones((cell, cell, 1), np.uint8))), (margin, margin))
    draw = ImageDraw.Draw(image)
    for row, name in enumerate(names):
        middle = margin + cell * row + cell // 2
        draw.text((margin - 4, middle), name, "black", font, "rm")
        for column, share in enumerate(shares[row]):
            colour = "white" if share > 0.5 else "black"
            at = (margin + cell * column + cell // 2, middle)
            if share:
                draw.text(at, f"{100 * share:.0f}", colour, font, "mm")
    image.paste(_column_names(names, cell, margin), (margin, 0))
    return _picture(np.asarray(image))


def _column_names(names: Sequence[str], cell: int, margin: int) -> "Image":
    """The names one below the other, turned by a right angle: [margin, cell × names]."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LETTER_SIZE)
    strip = Image.new("RGB", (margin, cell * len(names)), "white")
    draw = ImageDraw.Draw(strip)
    for index, name in enumerate(names):
        draw.text((4, cell * index + cell // 2), name, "black", font, "lm")
    return strip.transpose(Image.Transpose.ROTATE_90)


def _shades(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """White to blue: [C, C] from 0 to 1 → [C, C, 3]."""
    white, blue = np.array([255.0, 255.0, 255.0]), np.array([8.0, 48.0, 107.0])
    shades: NDArray[np.uint8] = np.round(white + shares[..., None] * (blue - white)).astype(np.uint8)
    return shades


def _picture(pixels: NDArray[np.uint8]) -> Picture:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    height, width, _ = pixels.shape
    return Picture(buffer.getvalue(), width, height)
