"""The state of one run on one worker, and one update of its weights."""

import math
import warnings
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.batches import Batch, Standardiser, TrainingBatches
from resnet_dist.data.dataset import Dataset
from resnet_dist.errors import ConfigurationError, DivergedError
from resnet_dist.networks.batch_norm import set_momentum
from resnet_dist.networks.initialisation import initialise
from resnet_dist.networks.registry import make_network
from resnet_dist.training.evaluation import ImageSet
from resnet_dist.training.exact import VirtualShards, tree_sum
from resnet_dist.training.solvers import batch_norm_momentum, learning_rate, make_solver
from resnet_dist.workers import Workers


class Training:
    """The state of one run on one worker. Its bits are those of the run inside `settings_of_run` alone."""

    def __init__(self, config: TrainingConfig, dataset: Dataset, workers: Workers) -> None:
        self.config = config
        self.dataset = dataset
        self.workers = workers
        run = config.run
        images = len(dataset.train_labels)
        if config.data.batch_size > images:
            raise ConfigurationError(
                f"data.batch_size: {config.data.batch_size} is more than the {images} training images; lower it"
            )
        dtype = torch.float64 if run.precision == "float64" else torch.float32
        if run.exact and workers.size > run.virtual_shards:
            raise ConfigurationError(
                f"run.virtual_shards: {run.virtual_shards} shards cannot be shared by {workers.size} workers; "
                f"give --virtual-shards {1 << (workers.size - 1).bit_length()} or fewer workers"
            )
        shards = workers.shards(run.virtual_shards if run.exact else None)
        self.columns = run.virtual_shards if run.exact else 1
        standardise = Standardiser(dataset.mean, dataset.std, dtype, workers.device)
        self.batches = TrainingBatches(
            dataset.train_images, dataset.train_labels, standardise, config.data, run.seed, shards
        )
        self.plan = self.batches.order.plan
        self.test = ImageSet(
            dataset.test_images, dataset.test_labels, standardise, workers, self.columns, len(dataset.classes)
        )
        self.confusion: Tensor | None = None  # int64 [classes, classes], at the end of the newest epoch
        self.validation = (
            ImageSet(dataset.validation_images, dataset.validation_labels, standardise, workers, self.columns)
            if config.data.holdout
            else None
        )
        network = make_network(config.network, config.batch_norm, len(dataset.classes), run.seed)
        initialise(network, config.network, run.seed)
        # On CPUs and GPUs alike convolutions run fastest with the channels last in memory.
        self.network = network.to(workers.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = 0
        self.losses = torch.zeros(0, self.columns)
        self._forward: nn.Module = self.network
        self.shards: VirtualShards | None = None
        if run.exact:
            self.shards = VirtualShards(self.network, shards, workers)
        elif workers.size > 1:
            self._forward = _data_parallel(self.network)

        self.solver = make_solver(config.solver, self.network.parameters())

    @property
    def epoch(self) -> int:
        """The epoch to which the next step belongs, counted from 0."""
        return self.plan.epoch(self.step)

    def learning_rate(self, step: int) -> float:
        """Learning rate of the update at a step of the run, counted from 0."""
        config, plan = self.config, self.plan
        return learning_rate(config.solver, config.schedule, step, plan.epoch(step), plan.start(config.run.epochs))

    def start_epoch(self) -> None:
        """Make room for the losses of the epoch's steps, unless a checkpoint brought some of them."""
        steps = self.plan.start(self.epoch + 1) - self.plan.start(self.epoch)
        if self.step == self.plan.start(self.epoch):
            self.losses = torch.zeros(steps, self.columns, dtype=torch.float64, device=self.workers.device)

    def update(self) -> Tensor:
        """One update of the weights.

        Returns this worker's part of the batch's mean loss, on the device: [1], or [virtual shards] with zeros for
        those of others.
        """
        config = self.config
        rate = self.learning_rate(self.step)
        for group in self.solver.param_groups:
            group["lr"] = rate
        self.solver.zero_grad(set_to_none=True)
        size, parts = self.batches.step(self.step)
        loss = torch.zeros(self.columns, dtype=torch.float64, device=self.workers.device)
        count = min(config.data.accumulation, size)
        for part, batches in enumerate(parts):
            momentum = batch_norm_momentum(config.batch_norm, self.plan, self.step, config.data.accumulation, part)
            if self.shards is not None:
                self.shards.set_momentum(momentum)
                held = self.shards.shards.held
                loss[held.start : held.stop] += self._exact_forward_backward(self.shards, batches, size)
            else:
                set_momentum(self.network, momentum)
                (batch,) = batches
                loss += self._forward_backward(batch, size, is_last=part == count - 1)
        if self.shards is not None:
            self.shards.reduce_gradients()
        self.solver.step()
        self.losses[self.step - self.plan.start(self.epoch)] = loss
        self.step += 1
        return loss

    def _forward_backward(self, batch: Batch, size: int, is_last: bool) -> Tensor:
        """Add one sub-batch's gradients; returns this worker's share of the mean loss over the `size` images."""
        wait = isinstance(self._forward, DistributedDataParallel) and not is_last
        with self._forward.no_sync() if wait else nullcontext():  # type: ignore[operator]
            loss = self._loss(self._forward, batch, size)
            # DistributedDataParallel averages over workers; samples, not workers, are to be weighted equally.
            (loss * self.workers.size).backward()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        bfloat16 = self.config.run.precision == "bfloat16"
        return torch.autocast(self.workers.device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False)

    def _exact_forward_backward(self, shards: VirtualShards, batches: list[Batch], size: int) -> Tensor:
        """The same for each virtual shard that this worker holds: losses [shards held]."""
        return shards.forward_backward(lambda replica, index: self._loss(replica, batches[index], size))

    def _loss(self, network: nn.Module, batch: Batch, size: int) -> Tensor:
        """Sum of the losses of a shard's images, divided by the size of the whole batch."""
        with self._autocast():
            logits = network(batch.images)
        logits = logits.to(self.batches.standardise.mean.dtype)
        return F.cross_entropy(logits, batch.labels, reduction="sum") / size

    def epoch_losses(self) -> list[float]:
        """The mean loss of each of the epoch's batches, over all workers; one collective, waits for the device."""
        return tree_sum(self.workers.sum(self.losses.clone()).T).tolist()

    def epoch_line(self, losses: list[float], seconds: float, joules: float | None) -> dict[str, Any]:
        """Evaluate, and make the line of metrics.jsonl for the epoch that has just ended; `joules` if it is known."""
        epoch = self.plan.epoch(self.step - 1)
        first = self.plan.start(epoch)
        sizes = [self.plan.size(step) for step in range(first, self.step)]
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self.step,
            "learning_rate": self.solver.param_groups[0]["lr"],
            "train_loss": math.fsum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes),
        }
        if not math.isfinite(line["train_loss"]):
            raise DivergedError(
                f"the training loss is {line['train_loss']} in epoch {epoch + 1}; a lower solver.learning_rate may help"
            )
        test = self.test.evaluate(self.network, self._autocast())
        self.confusion = test.confusion
        line |= {
            "test_loss": test.loss if math.isfinite(test.loss) else None,
            "top1_error": test.top1_error,
            "top5_error": test.top5_error,
        }
        if self.validation is not None:
            line["validation_error"] = self.validation.evaluate(self.network, self._autocast()).top1_error
        line |= {"seconds": round(seconds, 3), "images_per_second": round(sum(sizes) / seconds, 1)}
        return line if joules is None else line | {"energy_joules": round(joules, 3)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, the same on every worker. Draws are functions of the step and need no state."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "solver": self.solver.state_dict(),
            "losses": self.workers.sum(self.losses.clone()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.solver.load_state_dict(state["solver"])
        # The losses so far are sums over workers: the first one carries them on.
        losses = state["losses"].to(self.workers.device)
        self.losses = losses if self.workers.is_first else torch.zeros_like(losses)


def _data_parallel(network: nn.Module) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # Running statistics are computed alike on every worker: there is nothing to broadcast. The option's newer
        # name, forward_sync_buffers, is unknown to older releases.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(network, broadcast_buffers=False)
