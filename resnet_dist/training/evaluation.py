"""Error over a whole set of images, each counted once however many workers share them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.data.batches import Standardiser
from resnet_dist.data.streamed_images import StreamedImages
from resnet_dist.training.exact import tree_sum
from resnet_dist.workers import Workers

BATCH = {"cpu": 500, "cuda": 2500}
"""Images of 32x32 pixels that a worker evaluates at a time, by its device, and fewer of larger ones: enough to keep it
busy, few enough for its memory. An image's logits do not depend on its neighbours."""


@dataclass(frozen=True)
class Evaluation:
    """Errors over a set of images."""

    loss: float
    """Mean cross-entropy in nats."""
    top1_error: float
    """Fraction of images whose most likely class is wrong."""
    top5_error: float
    """Fraction of images whose class is not among the five most likely."""
    finite: bool = True
    """Whether the loss, all outputs, and the network's weights and running statistics are finite, on every worker."""
    found: Tensor | None = field(default=None, compare=False, repr=False)
    """The class that each image was taken for, int64 [N], on the CPU; for sets that keep it."""


def batch_of(size: Sequence[int], device: torch.device) -> int:
    """Images of so many rows and columns that a worker evaluates at a time."""
    return max(1, min(BATCH[device.type], BATCH[device.type] * 32 * 32 // math.prod(size)))


class _Held:
    """Images on the device."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().to(device)  # uint8 [N, 3, H, W] → [N, H, W, 3]
        self.shape = images.shape

    def at_once(self, most: int) -> int:
        """How many a piece may have."""
        return most

    def pieces(self, size: int) -> Iterator[list[Tensor]]:
        """All of them, at most so many at a time, in one view."""
        return ([piece] for piece in (self.images.split(size) if len(self.images) else ()))


class ImageSet:
    """A set of images held on the device, or decoded each time, evaluated as often as wanted."""

    def __init__(
        self,
        images: Tensor | StreamedImages,
        labels: Tensor,
        standardise: Standardiser,
        workers: Workers,
        virtual_shards: int = 1,
        keep_found: bool = False,
    ) -> None:
        # images: uint8 [N, 3, H, W]; each worker holds its own part alone
        self.keep_found = keep_found
        self.total = len(labels)
        self.standardise = standardise
        self.workers = workers
        self.columns = virtual_shards
        shards = workers.shards(virtual_shards if virtual_shards > 1 else None)
        self.parts = [
            (
                shard if virtual_shards > 1 else 0,
                4 + start,
                _Held(images[start:stop], workers.device) if isinstance(images, Tensor) else images.part(start, stop),
                labels[start:stop].to(workers.device),
            )
            for shard, (start, stop) in zip(shards.held, shards.bounds(0, self.total), strict=True)
        ]

    @torch.no_grad()
    def evaluate(
        self, network: nn.Module, autocast: torch.autocast, on_logits: Callable[[Tensor], object] | None = None
    ) -> Evaluation:
        """Evaluate a network, with its running batch-norm statistics; one collective.

        `on_logits` is called with those of each piece of this worker's images, [b, classes].
        """
        network.eval()
        width = 4 + (self.total if self.keep_found else 0)
        sums = torch.zeros(self.columns, width, dtype=torch.float64, device=self.workers.device)
        for column, place, images, labels in self.parts:
            size = images.at_once(batch_of(images.shape[2:], self.workers.device))
            for piece, truth in zip(images.pieces(size), labels.split(size), strict=False):  # split gives at least one
                logits = self._logits(network, autocast, piece)
                if on_logits:
                    on_logits(logits)
                counted = _sums(logits, truth)
                sums[column, :4] += counted[:4]
                if self.keep_found:
                    sums[column, place : place + len(truth)] = counted[4:]
                place += len(truth)
        sums[0, 3] += _not_finite(network)
        network.train()
        # In exact mode each column has one worker's sums, to which the others add zeros.
        totals = tree_sum(self.workers.sum(sums))
        loss, top1, top5, broken = (totals[:4] / self.total).tolist()
        finite = math.isfinite(loss) and broken == 0
        return Evaluation(loss, top1, top5, finite, totals[4:].long().cpu() if self.keep_found else None)

    def _logits(self, network: nn.Module, autocast: torch.autocast, views: list[Tensor]) -> Tensor:
        """Of some images, each view uint8 [b, H, W, 3]: [b, classes]. Of several views: of their mean probability."""
        dtype, found = self.standardise.mean.dtype, []
        for images in views:
            with autocast:
                found.append(network(self.standardise(images.to(self.workers.device)).permute(0, 3, 1, 2)).to(dtype))
        first: Tensor = found[0]
        if len(found) == 1:
            return first
        mean: Tensor = torch.stack([logits.log_softmax(1) for logits in found]).logsumexp(0) - math.log(len(found))
        return mean


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the losses, images wrong, wrong in the first five, outputs not finite; each image's class: [4 + N]."""
    found = logits.topk(min(5, logits.shape[1])).indices
    correct = found == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    sums = torch.stack([loss, (~correct[:, 0]).sum(), (~correct.any(1)).sum(), (~logits.isfinite()).sum()])
    return torch.cat([sums, found[:, 0].to(sums.dtype)])


def _not_finite(network: nn.Module) -> Tensor | int:
    """How many numbers of the weights and running statistics are not finite; other buffers may hold infinities."""
    statistics = (
        value for name, value in network.named_buffers() if name.rpartition(".")[2] in ("running_mean", "running_var")
    )
    return sum((~value.isfinite()).sum() for value in (*network.parameters(), *statistics))
