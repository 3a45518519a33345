"""How a batch's gradients come about: on one worker, on several that share the batch, or in exact mode.

Which it is follows from the configuration and the number of workers, and is chosen once, when a run is built.
"""

import inspect
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.loss import LossConfig
from resnet_dist.configuration.run import RunConfig
from resnet_dist.custom_code import resolve
from resnet_dist.data.batches import Batch
from resnet_dist.errors import ConfigurationError
from resnet_dist.networks.batch_norm import set_momentum
from resnet_dist.networks.noise import keyed
from resnet_dist.training.exact import VirtualShards
from resnet_dist.training.loss_scale import LossScale
from resnet_dist.workers import Workers


class Loss:
    """The loss of images under a network, in a run's precision."""

    def __init__(self, precision: str, device: torch.device, config: LossConfig | None = None) -> None:
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        """Type of weights and losses."""
        self.device = device
        self.config = config or LossConfig()
        self.scale = LossScale(enabled=precision == "float16")
        self._autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
        self._own = resolve("loss.kind", self.config.kind) if is_custom(self.config.kind) else None

    def autocast(self) -> torch.autocast:
        """Where a network computes: in 16 bits if the run asks for it."""
        dtype = self._autocast or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self._autocast is not None, cache_enabled=False)

    def __call__(self, network: nn.Module, batch: Batch, size: int) -> Tensor:
        """Sum of the losses of a shard's images, divided by the size of the whole batch, and times the scale."""
        with self.autocast(), keyed(batch.keys):
            logits = network(batch.images)
        loss = self._sum(logits.to(self.dtype), batch) / size
        return loss * self.scale.value if self.scale.enabled else loss

    def unscaled(self, loss: Tensor) -> Tensor:
        """A loss that was computed here, as it is reported: detached, and without the scale."""
        return loss.detach() / self.scale.value if self.scale.enabled else loss.detach()

    def _sum(self, logits: Tensor, batch: Batch) -> Tensor:
        if batch.others is not None and batch.share is not None:
            own, other = self._each(logits, batch.labels), self._each(logits, batch.others)
            return (own * batch.share + other * (1 - batch.share)).sum()
        return self._each(logits, batch.labels).sum() if self._own else self._cross_entropy(logits, batch.labels, "sum")

    def _each(self, logits: Tensor, labels: Tensor) -> Tensor:
        return own_losses(self._own, logits, labels) if self._own else self._cross_entropy(logits, labels, "none")

    def _cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=self.config.label_smoothing)


def own_losses(own: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """What a loss of the user's own gives for each image, [b]; a `ConfigurationError` if it gives anything else."""
    losses = own(logits, labels)
    if not isinstance(losses, Tensor) or losses.shape != labels.shape:
        given = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ConfigurationError(f"gives {given}, not the loss of each image, [{len(labels)}]")
    return losses


class Gradients(Protocol):
    """Brings a batch's gradients into the parameters of a network."""

    columns: int
    """Parts that the batch's loss is the sum of."""
    held: slice
    """Those that this worker computes."""

    def add(self, batches: list[Batch], size: int, momentum: float | Tensor, is_last: bool) -> Tensor:
        """Add the gradients of one sub-batch, of whose shards this worker holds `batches`.

        `size`: images of the whole batch; `momentum`: of the running batch-norm statistics; `is_last`: whether no
        sub-batch of this batch follows. Returns the shards' parts of the mean loss over the batch, [held], detached.
        """

    def finish(self) -> None:
        """Bring together what is not together yet, after the last sub-batch."""


def make_gradients(run: RunConfig, network: nn.Module, loss: Loss, workers: Workers) -> Gradients:
    """What computes the gradients of a run on these workers."""
    if run.exact:
        return ExactGradients(network, loss, run.virtual_shards, workers)
    if workers.size > 1:
        return SharedGradients(network, loss, workers)
    return OwnGradients(network, loss)


class OwnGradients:
    """One worker has the whole batch."""

    columns = 1
    held = slice(0, 1)

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        self.network = network
        self.loss = loss

    def add(self, batches: list[Batch], size: int, momentum: float | Tensor, is_last: bool) -> Tensor:
        """See `Gradients.add`."""
        (batch,) = batches
        set_momentum(self.network, momentum)
        loss = self.loss(self.network, batch, size)
        loss.backward()
        return self.loss.unscaled(loss)[None]

    def finish(self) -> None:
        """Nothing: all is here."""


class SharedGradients:
    """Each worker has a slice of the batch, and DistributedDataParallel sums the gradients."""

    columns = 1
    held = slice(0, 1)

    def __init__(self, network: nn.Module, loss: Loss, workers: Workers) -> None:
        self.network = network
        self.loss = loss
        self.workers = workers
        with warnings.catch_warnings():
            # Running statistics are computed alike on every worker: there is nothing to broadcast. The option's newer
            # name, forward_sync_buffers, is unknown to older releases.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.parallel = _parallel(network)

    def add(self, batches: list[Batch], size: int, momentum: float | Tensor, is_last: bool) -> Tensor:
        """See `Gradients.add`; the workers' gradients meet at the last sub-batch."""
        (batch,) = batches
        set_momentum(self.network, momentum)
        with nullcontext() if is_last else self.parallel.no_sync():
            loss = self.loss(self.parallel, batch, size)
            # DistributedDataParallel averages over workers; samples, not workers, are to be weighted equally.
            (loss * self.workers.size).backward()
        return self.loss.unscaled(loss)[None]

    def finish(self) -> None:
        """Nothing: DistributedDataParallel has summed them."""


def _parallel(network: nn.Module) -> DistributedDataParallel:
    """DistributedDataParallel without torch's compiler, which each worker would import for longer than torch itself.

    It asks the compiler for one of its settings, which is at its default where nobody has imported it; and it wants a
    part of its forward pass left out of what is compiled, as optimizers do (`solvers._keep_compiler_out`).
    """
    function = inspect.unwrap(DistributedDataParallel._inside_ddp_forward)
    setattr(function, "__dynamo_disable", function)
    if "torch._dynamo" in sys.modules:
        return DistributedDataParallel(network, broadcast_buffers=False)
    default = SimpleNamespace(utils=SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer"))
    vars(torch)["_dynamo"] = default
    try:
        return DistributedDataParallel(network, broadcast_buffers=False)
    finally:
        del vars(torch)["_dynamo"]  # whoever asks for it next gets it


class ExactGradients:
    """Each worker has some of a fixed number of virtual shards, whose gradients are added in one tree."""

    def __init__(self, network: nn.Module, loss: Loss, virtual_shards: int, workers: Workers) -> None:
        shards = workers.shards(virtual_shards)
        self.loss = loss
        self.columns = virtual_shards
        self.held = slice(shards.held.start, shards.held.stop)
        self.shards = VirtualShards(network, shards, workers)

    def add(self, batches: list[Batch], size: int, momentum: float | Tensor, is_last: bool) -> Tensor:
        """See `Gradients.add`."""
        self.shards.set_momentum(momentum)
        losses = self.shards.forward_backward(lambda replica, index: self.loss(replica, batches[index], size))
        return self.loss.unscaled(losses)

    def finish(self) -> None:
        """Add the gradients of all virtual shards."""
        self.shards.reduce_gradients()
