"""One training run, from configuration to result record. The same function runs on one worker or on many.

configuration → network, data, solver → for each step: batch → loss → gradients → update
              → each epoch: test error → summaries, metrics line, checkpoint → result record
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnet_dist import checkpoints
from resnet_dist.batch_norm import set_momentum
from resnet_dist.batches import Batch, Standardiser, TrainingBatches
from resnet_dist.configuration import TrainingConfig, is_custom
from resnet_dist.dataset import Dataset
from resnet_dist.energy import energy_meter
from resnet_dist.errors import ConfigurationError, DivergedError
from resnet_dist.evaluation import ImageSet
from resnet_dist.exact import VirtualShards, tree_sum
from resnet_dist.initialisation import initialise
from resnet_dist.model_file import encode_model
from resnet_dist.networks import make_network, parameter_count
from resnet_dist.numerics import settings_of_run
from resnet_dist.observations import observe
from resnet_dist.recorder import Recorder
from resnet_dist.solvers import batch_norm_momentum, learning_rate, make_solver
from resnet_dist.workers import Workers

OnStep = Callable[[int, Tensor], None]
"""Called after each update with the number of updates so far and this worker's part of the loss, as `update` returns
it: on the device, for which reading it waits."""
OnEpoch = Callable[[dict[str, Any]], None]
"""Called after each epoch, on every worker, with the epoch's metrics line."""


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
        if run.exact and (config.network.block or is_custom(config.network.family)):
            raise ConfigurationError(
                "run.exact: exact mode is proven for the networks of this package, in which never more than two "
                "gradients meet; leave it out with a network or block of your own"
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


def train(
    config: TrainingConfig,
    dataset: Dataset,
    workers: Workers,
    recorder: Recorder | None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train to the end, from the newest checkpoint if there is one. Returns the result record, on every worker.

    `recorder` is given on the first worker alone. A finished trial is not trained again.
    """
    with settings_of_run(config.run.exact):
        return _train(config, dataset, workers, recorder, on_epoch, on_step)


def _train(
    config: TrainingConfig,
    dataset: Dataset,
    workers: Workers,
    recorder: Recorder | None,
    on_epoch: OnEpoch | None,
    on_step: OnStep | None,
) -> dict[str, Any]:
    result = workers.broadcast(recorder.result() if recorder else None)
    if result is not None:
        return dict(result)
    training = Training(config, dataset, workers)
    if recorder:
        recorder.start(workers, dataset.fingerprint)
    data = workers.broadcast(recorder.checkpoints.latest() if recorder else None)
    if data is not None:
        training.load(checkpoints.decode(data))

    run, plan, meter = config.run, training.plan, energy_meter(workers)
    while training.step < plan.start(run.epochs):
        epoch = training.epoch
        training.start_epoch()
        if meter:
            meter.start()
        started, first = time.perf_counter(), training.step
        while training.step < plan.start(epoch + 1):
            loss = training.update()
            if on_step:
                on_step(training.step, loss)
            inside = training.step < plan.start(epoch + 1)
            if run.checkpoint_steps and inside and training.step % run.checkpoint_steps == 0:
                _checkpoint(training, recorder)
        losses = training.epoch_losses()  # waits for the device, so the time is right
        elapsed = time.perf_counter() - started
        joules = meter.joules() if meter else None
        # After a resume inside an epoch, time and energy of the whole one are estimated from the part that was run.
        whole = (plan.start(epoch + 1) - plan.start(epoch)) / (training.step - first)
        line = training.epoch_line(losses, elapsed * whole, joules if joules is None else joules * whole)
        if recorder:
            rates = [training.learning_rate(step) for step in _steps(training, epoch)]
            recorder.epoch(line, losses, rates, observe(training, epoch))
        last = epoch + 1 == run.epochs
        if last or (epoch + 1) % run.checkpoint_epochs == 0:
            _checkpoint(training, recorder)
        if on_epoch:
            on_epoch(line)
    return _finish(training, recorder)


def _steps(training: Training, epoch: int) -> range:
    return range(training.plan.start(epoch), training.plan.start(epoch + 1))


def _checkpoint(training: Training, recorder: Recorder | None) -> None:
    state = training.state()  # a collective: every worker takes part
    if recorder:
        recorder.checkpoints.write(training.step, checkpoints.encode(state))


def _finish(training: Training, recorder: Recorder | None) -> dict[str, Any]:
    result = None
    if recorder:
        lines = [recorder.lines[epoch] for epoch in sorted(recorder.lines)]
        last = lines[-1]
        summary = {
            "epochs": training.config.run.epochs,
            "steps": training.step,
            **{name: last[name] for name in ("top1_error", "top5_error", "test_loss", "train_loss")},
            **({"validation_error": last["validation_error"]} if "validation_error" in last else {}),
            "seconds": round(math.fsum(line["seconds"] for line in lines), 3),
            "images_per_second": round(sum(line["images_per_second"] for line in lines) / len(lines), 1),
            "workers": training.workers.size,
            "device": training.workers.device.type,
            "parameters": parameter_count(training.network),
            **_energy(lines),
        }
        weights = encode_model(training.network, training.config, training.dataset)
        result = recorder.finish(weights, summary)
    return dict(training.workers.broadcast(result))


def _energy(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Joules of a run, if each of its epochs knows its own: they may be of several attempts on several machines."""
    if not all("energy_joules" in line for line in lines):
        return {}
    return {"energy_joules": round(math.fsum(line["energy_joules"] for line in lines), 3)}
