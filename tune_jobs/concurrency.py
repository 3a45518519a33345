"""How many trials of several workers run at a time: as many as the cluster holds at the moment, and one that waits.

Ray Tune takes a fixed number and does not own the workers' placement groups, so its drivers would fill the cluster, or
leave nodes idle that came later. The one that waits is what an autoscaler sees: it brings the node for the next group.
"""

import time
from typing import Any

from ray.tune.search.basic_variant import BasicVariantGenerator

from cluster.ray_cluster import DRIVER_RESOURCE

REFRESH_SECONDS = 2.0
"""How often the cluster is asked what it has."""


def groups_that_fit(resources: dict[str, float], workers: int, use_gpu: bool) -> int:
    """Worker groups of this size that a cluster of these resources holds, of each worker a CPU or a GPU."""
    fit = int(resources.get("GPU" if use_gpu else "CPU", 0)) // workers
    if resources.get(DRIVER_RESOURCE):  # else the cluster does not say where drivers are to run
        fit = min(fit, int(resources[DRIVER_RESOURCE]))
    return fit


class FollowsCluster(BasicVariantGenerator):
    """Hands out the trials of a grid in their order, so many at a time as `groups_that_fit`, and one more."""

    def __init__(self, workers: int, use_gpu: bool) -> None:
        self.workers = workers
        self.use_gpu = use_gpu
        self._limit = 1
        self._asked = -REFRESH_SECONDS
        super().__init__()

    @property
    def max_concurrent(self) -> int:
        """Trials that may run or wait at this moment, at least one: nodes come and go."""
        import ray

        if time.monotonic() - self._asked >= REFRESH_SECONDS:
            self._asked = time.monotonic()
            self._limit = 1 + groups_that_fit(ray.cluster_resources(), self.workers, self.use_gpu)
        return self._limit

    @max_concurrent.setter
    def max_concurrent(self, value: Any) -> None:
        """The base class sets a number once; here it is asked for."""
