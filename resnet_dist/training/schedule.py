"""What changes from step to step: the learning rate, and batch norm's momentum."""

import math

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.schedule import ScheduleConfig
from resnet_dist.configuration.solver import SolverConfig
from resnet_dist.data.epochs import EpochPlan


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
