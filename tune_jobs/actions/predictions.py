"""What a model takes each test image for, as a file."""

import csv
from collections import Counter
from pathlib import Path

from torch import Tensor

from resnet_dist.errors import UserError

COLUMNS = ("class", "number", "predicted", "correct", "probability", "probability_of_class")


def write_predictions(
    path: Path, names: tuple[str, ...], labels: Tensor, predicted: Tensor, probabilities: Tensor
) -> None:
    """Write a row an image: labels and predictions int64 [N], probabilities float64 [N, classes].

    `number` counts the images of a class from 0, in a folder by file name: data sets are read interleaved by class.
    """
    counts: Counter[int] = Counter()
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for label, found, row in zip(labels.tolist(), predicted.tolist(), probabilities.tolist(), strict=True):
                same = str(label == found).lower()
                shown = [f"{row[index]:.6f}" for index in (found, label)]
                writer.writerow((names[label], counts[label], names[found], same, *shown))
                counts[label] += 1
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
