"""One update of the weights: what a step is told, and the arithmetic, in the order in which everything happens.

What changes from step to step is made on the host: which images, how they are moved, and a few numbers. On a CPU the
arithmetic takes the numbers as they are. On a GPU it takes them from the GPU's memory, so that no host has to be asked
in the middle of it, and all of it can be captured once and replayed (`captured.py`).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.batches import TrainingBatches
from resnet_dist.training.average import WeightAverage
from resnet_dist.training.device_solvers import DeviceSolver
from resnet_dist.training.gradients import Gradients, Loss
from resnet_dist.training.schedule import batch_norm_momentum, full_rate, learning_rate
from resnet_dist.training.solvers import make_solver, step_of


def told_by_host(device: torch.device) -> bool:
    """Whether the arithmetic on this device takes numbers from the host."""
    return device.type == "cpu"


class Stepper(Protocol):
    """Brings gradients into the weights."""

    optimizer: torch.optim.Optimizer

    def numbers(self, rate: float, step: int) -> tuple[float, ...]:
        """What changes from step to step: of the update at `step` of the run, counted from 0."""

    def apply(self, numbers: Sequence[float] | Tensor) -> None:
        """One update."""

    def settle(self, step: int) -> None:
        """Bring the optimizer's state up to date, after so many updates."""


class HostSolver:
    """torch's own update, or the user's, whose learning rate is a number on the host."""

    def __init__(self, optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> None:
        self.optimizer = optimizer
        self._step = step

    def numbers(self, rate: float, step: int) -> tuple[float, ...]:
        """See `Stepper.numbers`."""
        return (rate,)

    def apply(self, numbers: Sequence[float] | Tensor) -> None:
        """See `Stepper.apply`."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(numbers[0])
        self._step()

    def settle(self, step: int) -> None:
        """Nothing: the optimizer counts for itself."""


def make_stepper(config: TrainingConfig, network: nn.Module, device: torch.device) -> Stepper:
    """The solver of a run on a device."""
    optimizer = make_solver(config.solver, network.parameters())
    if is_custom(config.solver.kind):
        return HostSolver(optimizer, optimizer.step)
    if told_by_host(device):
        return HostSolver(optimizer, step_of(optimizer))
    return DeviceSolver(config.solver, optimizer)


def clip(network: nn.Module, largest: float) -> None:
    """Scale all gradients down, by one factor, to a Euclidean norm of at most `largest`; no host is asked."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (largest / norm).clamp(max=1.0))


class Update:
    """The arithmetic of one update, and what it has to be told."""

    def __init__(
        self,
        config: TrainingConfig,
        batches: TrainingBatches,
        gradients: Gradients,
        stepper: Stepper,
        network: nn.Module,
        loss: Loss,
    ) -> None:
        self.config = config
        self.batches = batches
        self.gradients = gradients
        self.stepper = stepper
        self.network = network
        self.loss = loss
        decay = config.solver.average_decay
        self.average = WeightAverage(network, decay) if decay else None
        self.device = batches.device
        self.by_host = told_by_host(self.device) or isinstance(stepper, HostSolver)
        """Whether the arithmetic takes numbers from the host."""
        self.plan = batches.order.plan
        self.total_steps = self.plan.first_step(config.run.epochs)

    def rate(self, step: int) -> float:
        """Learning rate of the update at a step of the run, counted from 0."""
        config = self.config
        full = full_rate(config.solver, config.data.batch_size)
        return learning_rate(full, config.schedule, step, self.plan.epoch(step), self.total_steps)

    def numbers(self, step: int) -> list[float]:
        """The solver's numbers at a step, then batch norm's momentum for each sub-batch."""
        accumulation = self.config.data.accumulation
        momenta = [
            batch_norm_momentum(self.config.batch_norm, self.plan, step, accumulation, part)
            for part in range(accumulation)
        ]
        return [*self.stepper.numbers(self.rate(step), step), *momenta]

    def at(self, step: int) -> Tensor:
        """The update at a step of the run, told what it has to know. Returns what `compute` does."""
        drawn = self.batches.on_device(self.batches.drawn(range(step, step + 1))[0])
        numbers = torch.tensor(self.numbers(step), dtype=torch.float64)
        return self.compute(drawn, numbers if self.by_host else self.batches.on_device(numbers))

    def compute(self, drawn: Tensor, numbers: Tensor) -> Tensor:
        """One update from draws, int64 [B, width] on the device, and numbers, float64 [n] there too unless `by_host`.

        Returns this worker's part of the batch's mean loss, on the device: [1], or [virtual shards] with zeros for
        those of others.
        """
        told = numbers.tolist() if self.by_host else numbers.to(self.loss.dtype)
        momenta = told[-self.config.data.accumulation :]
        self.stepper.optimizer.zero_grad(set_to_none=True)
        size = len(drawn)
        loss = torch.zeros(self.gradients.columns, dtype=torch.float64, device=self.device)
        count = min(self.config.data.accumulation, size)
        constant = self.config.batch_norm.momentum
        for part, batches in enumerate(self.batches.parts(drawn)):
            momentum = momenta[part] if constant == "dynamic" else constant
            loss[self.gradients.held] += self.gradients.add(batches, size, momentum, is_last=part == count - 1)
        self.gradients.finish()
        if self.loss.scale.unscale(self.network):
            if self.config.solver.gradient_clip:
                clip(self.network, self.config.solver.gradient_clip)
            self.stepper.apply(told)
        if self.average:
            self.average.update()
        return loss
