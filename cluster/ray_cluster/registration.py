"""Workers that have not joined the cluster yet, as after a start of its head, are waited for, so long as is stated."""

import time
from collections.abc import Callable, Sequence

from cluster.ray_cluster.connection import Resources, present_resources
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.environment import seconds_of
from resnet_dist.errors import UserError

VARIABLE = "RESNET_DIST_WORKERS_SECONDS"
DEFAULT = 60.0
"""Seconds for which a launch waits for the workers of a cluster that it did not start."""
PAUSE = 1.0
"""Seconds between two looks."""


def awaited(runs: Sequence[TrainingConfig], resources: Resources, say: Callable[[str], None]) -> Resources:
    """What the connected cluster has once the largest of these runs fits; `say` is told of a wait, once.

    Raises a `UserError` that says what is missing when the time is over, and at once where nobody else can join: in a
    cluster of this machine, started by this process.
    """
    most = 0.0 if resources.is_ours else seconds_of(VARIABLE, DEFAULT, least=0, most=86_400)
    until, told = time.monotonic() + most, False
    while missing := _missing(runs, resources):
        if time.monotonic() >= until:
            raise UserError(f"{missing}; nothing more has joined within {most:g} s ({VARIABLE})" if most else missing)
        if not told:
            say(f"waiting up to {most:g} s for workers to join the cluster: {missing.partition(';')[0]} so far")
            told = True
        time.sleep(min(PAUSE, max(0.0, until - time.monotonic())))
        resources = present_resources(is_ours=False)
    return resources


def _missing(runs: Sequence[TrainingConfig], resources: Resources) -> str:
    """Why the smallest of those that do not fit does not; empty if all fit."""
    try:
        for config in sorted(runs, key=lambda config: config.run.workers):
            resources.require_workers(config.run.workers, resources.uses_gpu(config.run.device))
    except UserError as error:
        return str(error)
    return ""
