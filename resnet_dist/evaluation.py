"""Error over a whole set of images, each counted once however many workers share them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.batches import Standardiser
from resnet_dist.workers import Workers

BATCH = 500
"""Images a worker evaluates at a time. It bounds memory; an image's logits do not depend on its neighbours."""


@dataclass(frozen=True)
class Evaluation:
    """Errors over a set of images."""

    loss: float
    """Mean cross-entropy in nats."""
    top1_error: float
    """Fraction of images whose most likely class is wrong."""
    top5_error: float
    """Fraction of images whose class is not among the five most likely."""


class ImageSet:
    """A set of images held on the device, evaluated as often as wanted."""

    def __init__(self, images: Tensor, labels: Tensor, standardise: Standardiser, workers: Workers) -> None:
        # images: uint8 [N, 3, 32, 32]; each worker holds its own part alone
        start, stop = workers.slice(0, len(labels))
        self.total = len(labels)
        self.images = images[start:stop].permute(0, 2, 3, 1).contiguous().to(workers.device)
        self.labels = labels[start:stop].to(workers.device)
        self.standardise = standardise
        self.workers = workers

    @torch.no_grad()
    def evaluate(self, network: nn.Module, autocast: torch.autocast) -> Evaluation:
        """Evaluate a network, with its running batch-norm statistics; one collective."""
        network.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.workers.device)
        for images, labels in zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True):
            with autocast:
                logits = network(self.standardise(images).permute(0, 3, 1, 2))
            logits = logits.to(self.standardise.mean.dtype)
            if not len(labels):
                continue
            best = logits.topk(min(5, logits.shape[1])).indices
            correct = best == labels[:, None]
            sums += torch.stack(
                [F.cross_entropy(logits, labels, reduction="sum"), (~correct[:, 0]).sum(), (~correct.any(1)).sum()]
            )
        network.train()
        loss, top1, top5 = (self.workers.sum(sums) / self.total).tolist()
        return Evaluation(loss, top1, top5)
