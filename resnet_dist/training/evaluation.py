"""Error over a whole set of images, each counted once however many workers share them."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.data.batches import Standardiser
from resnet_dist.training.exact import tree_sum
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
    confusion: Tensor | None = field(default=None, compare=False, repr=False)
    """How often each class was taken for which, int64 [classes, classes], true class first; for sets that count it."""


class ImageSet:
    """A set of images held on the device, evaluated as often as wanted."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        standardise: Standardiser,
        workers: Workers,
        virtual_shards: int = 1,
        confusion_classes: int = 0,
    ) -> None:
        # images: uint8 [N, 3, 32, 32]; each worker holds its own part alone
        self.classes = confusion_classes
        self.total = len(labels)
        self.standardise = standardise
        self.workers = workers
        self.columns = virtual_shards
        shards = workers.shards(virtual_shards if virtual_shards > 1 else None)
        self.parts = [
            (
                shard if virtual_shards > 1 else 0,
                images[start:stop].permute(0, 2, 3, 1).contiguous().to(workers.device),
                labels[start:stop].to(workers.device),
            )
            for shard, (start, stop) in zip(shards.held, shards.bounds(0, self.total), strict=True)
        ]

    @torch.no_grad()
    def evaluate(self, network: nn.Module, autocast: torch.autocast) -> Evaluation:
        """Evaluate a network, with its running batch-norm statistics; one collective."""
        network.eval()
        sums = torch.zeros(self.columns, 3 + self.classes**2, dtype=torch.float64, device=self.workers.device)
        for column, images, labels in self.parts:
            for piece, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True):
                if len(truth):
                    sums[column] += self._sums(network, autocast, piece, truth)
        network.train()
        # In exact mode each column has one worker's sums, to which the others add zeros.
        totals = tree_sum(self.workers.sum(sums))
        loss, top1, top5 = (totals[:3] / self.total).tolist()
        if not self.classes:
            return Evaluation(loss, top1, top5)
        return Evaluation(loss, top1, top5, totals[3:].long().reshape(self.classes, self.classes).cpu())

    def _sums(self, network: nn.Module, autocast: torch.autocast, images: Tensor, labels: Tensor) -> Tensor:
        """Sum of the losses, images wrong, images wrong in the first five, then the confusion matrix: [3 + C²]."""
        with autocast:
            logits = network(self.standardise(images).permute(0, 3, 1, 2))
        logits = logits.to(self.standardise.mean.dtype)
        found = logits.topk(min(5, logits.shape[1])).indices
        correct = found == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums = torch.stack([loss, (~correct[:, 0]).sum(), (~correct.any(1)).sum()])
        if not self.classes:
            return sums
        confusion = torch.bincount(labels * self.classes + found[:, 0], minlength=self.classes**2)
        return torch.cat([sums, confusion.to(sums.dtype)])
