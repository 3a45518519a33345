"""The study's solvers, Adam and AdamW, and the learning rate and batch-norm momentum at each step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.custom_code import call
from resnet_dist.data.batches import EpochPlan
from resnet_dist.errors import ConfigurationError


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
    rate, decay = config.learning_rate, config.weight_decay
    assert decay is not None
    if config.kind == "sgd":
        assert config.momentum is not None and config.nesterov is not None
        return torch.optim.SGD(
            parameters, rate, momentum=config.momentum, dampening=0, weight_decay=decay, nesterov=config.nesterov
        )
    assert config.eps is not None
    if config.kind == "rmsprop":
        assert config.alpha is not None
        return torch.optim.RMSprop(parameters, rate, weight_decay=decay, alpha=config.alpha, eps=config.eps)
    if config.kind == "adagrad":
        return torch.optim.Adagrad(parameters, rate, weight_decay=decay, eps=config.eps)
    if config.kind in ("adam", "adamw"):
        assert config.beta1 is not None and config.beta2 is not None
        kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
        return kind(parameters, rate, betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=decay)
    assert config.kind == "adadelta" and config.rho is not None
    return torch.optim.Adadelta(parameters, rate, weight_decay=decay, rho=config.rho, eps=config.eps)


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
