"""What a model takes each test image for, as a file."""

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from resnet_dist.errors import UserError

COLUMNS = ("class", "number", "predicted", "correct", "probability", "probability_of_class")


def write_predictions(
    path: Path,
    names: tuple[str, ...],
    labels: Tensor,
    predicted: Tensor,
    probabilities: Tensor,
    numbers: Sequence[int],
) -> None:
    """Write a row an image: labels and predictions int64 [N], probabilities float64 [N, classes], numbers [N].

    A `number` counts the images of a class from 0, in a folder by file name: data sets are read interleaved by class.
    """
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            rows = zip(labels.tolist(), predicted.tolist(), probabilities.tolist(), numbers, strict=True)
            for label, found, row, number in rows:
                same = str(label == found).lower()
                shown = [f"{row[index]:.6f}" for index in (found, label)]
                writer.writerow((names[label], number, names[found], same, *shown))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
