"""The study's solvers, Adam and AdamW, and the learning rate and batch-norm momentum at each step."""

import functools
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.solver import SOLVER_DEFAULTS, SolverConfig
from resnet_dist.custom_code import call
from resnet_dist.data.batches import EpochPlan
from resnet_dist.errors import ConfigurationError

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, dampening=0),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""What is called with each solver's settings, of which `SOLVER_DEFAULTS` has the names."""


def make_solver(config: SolverConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """torch's optimizer with the settings written out; they follow Torch7's formulas where defaults differ.

    Weight decay acts on every parameter, biases and batch norm included, as in the study: as an L2 penalty in the
    gradient, except in AdamW, which takes learning rate x decay of the weights themselves at each update.
    """
    assert config.learning_rate is not None
    if is_custom(config.kind):
        made = call("solver.kind", config.kind, parameters=parameters, solver=config)
        if not isinstance(made, torch.optim.Optimizer):
            raise ConfigurationError(
                f"solver.kind: {config.kind!r} gives a {type(made).__name__}, no torch.optim.Optimizer",
                "solver.kind",
            )
        return made
    given = {name: getattr(config, name) for name in SOLVER_DEFAULTS[config.kind]}
    if "beta1" in given:
        given["betas"] = (given.pop("beta1"), given.pop("beta2"))
    return OPTIMIZERS[config.kind](parameters, given.pop("learning_rate"), **given)


def learning_rate(solver: SolverConfig, schedule: ScheduleConfig, step: int, epoch: int, steps: int) -> float:
    """Learning rate of the update at `step` (over the whole run of `steps`) of `epoch`, both counted from 0."""
    if step < schedule.warmup_iterations:
        return schedule.warmup_learning_rate
    assert solver.learning_rate is not None
    if schedule.kind == "constant":
        return solver.learning_rate
    if schedule.kind == "cosine":
        done = (step - schedule.warmup_iterations) / (steps - schedule.warmup_iterations)
        return solver.learning_rate * (1 + math.cos(math.pi * done)) / 2
    drops = sum(epoch >= milestone for milestone in schedule.milestones)
    # Divided by 10 twice, 0.1 is the 0.001 that the study set; multiplied by 0.1 twice it is 0.0010000000000000002.
    return float(solver.learning_rate / (1 / schedule.gamma) ** drops)


def batch_norm_momentum(config: BatchNormConfig, plan: EpochPlan, step: int, accumulation: int, part: int) -> float:
    """Batch norm's momentum for sub-batch `part` of the batch at `step`.

    Dynamic momentum is 1 / (1 + k), k the sub-batches since the epoch's start: at its end the running statistics
    are the plain average over the epoch's batches.
    """
    if config.momentum != "dynamic":
        return config.momentum
    seen = (step - plan.first_step(plan.epoch(step))) * accumulation + part
    return 1.0 / (1.0 + seen)
