"""The state of one run on one worker, and one update of its weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.batches import Standardiser
from resnet_dist.data.dataset import Dataset
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.data.sharded import ShardedDataset
from resnet_dist.errors import ConfigurationError
from resnet_dist.networks.batch_norm import needs_several_images
from resnet_dist.networks.construction import make_network
from resnet_dist.networks.initialisation import initialise
from resnet_dist.networks.noise import draws
from resnet_dist.records.initial_state import InitialState, load_solver, load_weights
from resnet_dist.training.captured import CapturedUpdates, can_be_captured
from resnet_dist.training.divergence import require_finite, require_finite_loss
from resnet_dist.training.evaluation import Evaluation, ImageSet
from resnet_dist.training.exact import tree_sum
from resnet_dist.training.gradients import Loss, make_gradients
from resnet_dist.training.memory import give_back
from resnet_dist.training.update import Update, make_stepper
from resnet_dist.workers import Workers


class Training:
    """The state of one run on one worker. Its bits are those of the run inside `settings_of_run` alone."""

    def __init__(
        self,
        config: TrainingConfig,
        dataset: Dataset | ShardedDataset,
        workers: Workers,
        initial: InitialState | None = None,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.workers = workers
        run = config.run
        images = len(dataset.train_labels)
        if config.data.batch_size > images:
            raise ConfigurationError(
                f"data.batch_size: {config.data.batch_size} is more than the {images} training images; lower it"
            )
        if run.exact and workers.size > run.virtual_shards:
            raise ConfigurationError(
                f"run.virtual_shards: {run.virtual_shards} shards cannot be shared by {workers.size} workers; "
                f"give run.virtual_shards {1 << (workers.size - 1).bit_length()} or fewer workers"
            )
        weights_seed, order_seed, augmentation_seed = run.seeds
        network = make_network(config.network, config.batch_norm, len(dataset.classes), weights_seed, config.data.size)
        initialise(network, config.network, weights_seed)
        _require_variance(network, config.data, EpochPlan(images, config.data.batch_size, config.data.sampling))
        initial = initial or InitialState()
        if initial.network is not None:
            load_weights(network, initial.network, config)
        loss = Loss(run.precision, workers.device, config.loss)
        self.autocast = loss.autocast
        # On CPUs and GPUs alike convolutions run fastest with the channels last in memory.
        self.network = network.to(workers.device, loss.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stepper = make_stepper(config, self.network, workers.device)
        self.solver = self.stepper.optimizer
        if initial.solver is not None:
            load_solver(self.solver, initial.solver, config)
        self.gradients = make_gradients(run, self.network, loss, workers)
        standardise = Standardiser(dataset.mean, dataset.std, loss.dtype, workers.device)
        shards = workers.shards(run.virtual_shards if run.exact else None)
        self.batches = dataset.batches(standardise, config.data, order_seed, augmentation_seed, shards)
        self.batches.keyed = draws(network)
        self.plan = self.batches.order.plan
        update = Update(config, self.batches, self.gradients, self.stepper, self.network, loss)
        self.evaluated = update.average.network if update.average else self.network
        """What is evaluated and kept: the network, or its average."""
        self.loss_scale = loss.scale
        self.updates = CapturedUpdates(update) if can_be_captured(config, workers) else update
        self.rate_at = update.rate
        self.total_steps = update.total_steps
        columns = self.gradients.columns
        self.test = ImageSet(dataset.test_images, dataset.test_labels, standardise, workers, columns, keep_found=True)
        self.found: Tensor | None = None  # the class of each test image, int64 [N], at the end of the newest epoch
        self.validation = (
            ImageSet(dataset.validation_images, dataset.validation_labels, standardise, workers, columns)
            if config.data.holdout
            else None
        )
        self.step = 0
        self.losses = torch.zeros(0, columns)

    @property
    def epoch(self) -> int:
        """The epoch to which the next step belongs, counted from 0."""
        return self.plan.epoch(self.step)

    def start_epoch(self) -> None:
        """Make room for the losses of the epoch's steps, unless a checkpoint brought some of them."""
        steps = self.plan.first_step(self.epoch + 1) - self.plan.first_step(self.epoch)
        if self.step == self.plan.first_step(self.epoch):
            self.losses = torch.zeros(steps, self.gradients.columns, dtype=torch.float64, device=self.workers.device)

    def update(self) -> Tensor:
        """One update of the weights.

        Returns this worker's part of the batch's mean loss, on the device: [1], or [virtual shards] with zeros for
        those of others.
        """
        loss = self.losses[self.step - self.plan.first_step(self.epoch)]
        loss.copy_(self.updates.at(self.step))
        self.step += 1
        return loss

    def epoch_losses(self) -> list[float]:
        """The mean loss of each of the epoch's batches, over all workers; one collective, waits for the device."""
        return tree_sum(self.workers.sum(self.losses.clone()).T).tolist()

    def epoch_line(
        self, losses: list[float], seconds: float, joules: float | None, evaluate: bool = True
    ) -> dict[str, Any]:
        """Evaluate, or not, and make the line of metrics.jsonl for the epoch that has just ended; `joules` if known."""
        epoch = self.plan.epoch(self.step - 1)
        first = self.plan.first_step(epoch)
        sizes = [self.plan.size(step) for step in range(first, self.step)]
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self.step,
            "learning_rate": self.rate_at(self.step - 1),
            "train_loss": math.fsum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes),
        }
        require_finite_loss("training", line["train_loss"], epoch)
        if evaluate:
            line |= self._errors(epoch)
        line |= {"seconds": round(seconds, 3), "images_per_second": round(sum(sizes) / seconds, 1)}
        return line if joules is None else line | {"energy_joules": round(joules, 3)}

    def _errors(self, epoch: int) -> dict[str, float]:
        test = self._evaluate(self.test, "test", epoch)
        self.found = test.found
        errors = {"test_loss": test.loss, "top1_error": test.top1_error, "top5_error": test.top5_error}
        if self.validation is not None:
            errors["validation_error"] = self._evaluate(self.validation, "validation", epoch).top1_error
        return errors

    def _evaluate(self, images: ImageSet, name: str, epoch: int) -> Evaluation:
        """Evaluate a set. Raises a `DivergedError`, on all workers."""
        give_back()
        found = images.evaluate(self.evaluated, self.autocast())
        give_back()
        require_finite(name, found, epoch)
        return found

    def wrong_images(self) -> Tensor:
        """Which test images the network gets wrong, bool [N]; a collective where no epoch was left to run."""
        if self.found is None:
            self.found = self.test.evaluate(self.evaluated, self.autocast()).found
        assert self.found is not None
        return self.found != self.dataset.test_labels

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, the same on every worker. Draws are functions of the step and need no state."""
        self.stepper.settle(self.step)
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "solver": self.solver.state_dict(),
            "losses": self.workers.sum(self.losses.clone()),
        }
        if self.evaluated is not self.network:
            state["average"] = self.evaluated.state_dict()
        if self.loss_scale.enabled:
            state["loss_scale"] = self.loss_scale.state()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.solver.load_state_dict(state["solver"])
        if self.evaluated is not self.network:
            self.evaluated.load_state_dict(state["average"])
        if self.loss_scale.enabled:
            self.loss_scale.load(state["loss_scale"])
        # The losses so far are sums over workers: the first one carries them on.
        losses = state["losses"].to(self.workers.device)
        self.losses = losses if self.workers.is_first else torch.zeros_like(losses)


def _require_variance(network: nn.Module, data: DataConfig, plan: EpochPlan) -> None:
    """Raise a `ConfigurationError` if a batch norm would see a single value a channel in an epoch's last batch."""
    if plan.smallest >= 2 * data.accumulation or not needs_several_images(network, data.size):
        return
    parts = f" in {data.accumulation} parts," if data.accumulation > 1 else ""
    raise ConfigurationError(
        f"data.batch_size: {data.batch_size} leaves {plan.smallest} of {plan.images} images for the last batch of an "
        f"epoch,{parts} too few for this network's batch norm, as one value has no variance; give another "
        "data.batch_size or data.train_limit, or data.sampling replacement"
    )
