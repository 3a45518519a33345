"""What a model takes each test image for, as a file."""

import csv
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from resnet_dist.data.batches import Standardiser
from resnet_dist.errors import UserError
from resnet_dist.training.evaluation import batch_of

COLUMNS = ("class", "number", "predicted", "correct", "probability", "probability_of_class")


@torch.no_grad()
def logits_of(network: nn.Module, autocast: torch.autocast, images: Tensor, standardise: Standardiser) -> Tensor:
    """Logits of images uint8 [N, 3, H, W], on the CPU: float64 [N, classes]."""
    network.eval()
    found = []
    for piece in images.split(batch_of(images.shape[2:], standardise.mean.device)):
        pixels = piece.permute(0, 2, 3, 1).contiguous().to(standardise.mean.device)
        with autocast:
            logits = network(standardise(pixels).permute(0, 3, 1, 2))
        found.append(logits.double().cpu())
    return torch.cat(found)


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
        raise UserError(f"--predictions {path}: cannot be written: {error.strerror or error}") from error
