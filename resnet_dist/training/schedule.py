"""What changes from step to step: the learning rate, and batch norm's momentum."""

import math

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.data.epochs import EpochPlan


def full_rate(solver: SolverConfig, batch_size: int) -> float:
    """Learning rate before the schedule acts, at so many images an update."""
    assert solver.learning_rate is not None
    meant_for = solver.reference_batch or batch_size
    return solver.learning_rate * (batch_size / meant_for)


def learning_rate(full: float, schedule: ScheduleConfig, step: int, epoch: int, steps: int) -> float:
    """Learning rate of the update at `step` (over the whole run of `steps`) of `epoch`, both counted from 0.

    `full` is the rate before the schedule acts.
    """
    if step < schedule.warmup_iterations:
        first = schedule.warmup_learning_rate
        linear = schedule.warmup_shape == "linear"
        return first + (full - first) * step / schedule.warmup_iterations if linear else first
    if schedule.kind == "constant":
        return full
    if schedule.kind == "cosine":
        done = (step - schedule.warmup_iterations) / (steps - schedule.warmup_iterations)
        return full * (1 + math.cos(math.pi * done)) / 2
    drops = sum(epoch >= milestone for milestone in schedule.milestones)
    # Divided by 10 twice, 0.1 is the 0.001 that the study set; multiplied by 0.1 twice it is 0.0010000000000000002.
    return float(full / (1 / schedule.gamma) ** drops)


def batch_norm_momentum(config: BatchNormConfig, plan: EpochPlan, step: int, accumulation: int, part: int) -> float:
    """Batch norm's momentum for sub-batch `part` of the batch at `step`.

    Dynamic momentum is 1 / (1 + k), k the sub-batches since the epoch's start: at its end the running statistics
    are the plain average over the epoch's batches.
    """
    if config.momentum != "dynamic":
        return config.momentum
    seen = (step - plan.first_step(plan.epoch(step))) * accumulation + part
    return 1.0 / (1.0 + seen)
