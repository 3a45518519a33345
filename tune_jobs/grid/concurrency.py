"""How many trials of several workers run at a time: as many as the cluster holds at the moment, and one that waits.

Ray Tune takes a fixed number and does not own the workers' placement groups, so its drivers would fill the cluster, or
leave nodes idle that came later. The one that waits is what an autoscaler sees: it brings the node for the next group.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search.basic_variant import BasicVariantGenerator

from cluster.ray_cluster.connection import DRIVER_RESOURCE, living_nodes, places_of_node

REFRESH_SECONDS = 2.0
"""How often the cluster is asked what it has."""


def groups_that_fit(nodes: Sequence[Mapping[str, float]], workers: int, use_gpu: bool) -> int:
    """Worker groups of this size that nodes of these resources hold, each worker with a CPU and, on GPUs, a GPU."""
    fit = sum(places_of_node(node, use_gpu) for node in nodes) // workers
    drivers = sum(node.get(DRIVER_RESOURCE, 0) for node in nodes)
    return min(fit, int(drivers)) if drivers else fit  # else the cluster does not say where drivers are to run


class FollowsCluster(BasicVariantGenerator):
    """Hands out the trials of a grid in their order, so many at a time as `groups_that_fit`, and some that wait."""

    def __init__(self, workers: int, use_gpu: bool, waiting: int = 1, side_by_side: int = 1) -> None:
        self.workers = workers
        self.use_gpu = use_gpu
        self.waiting = waiting
        self.side_by_side = side_by_side
        self._limit = 1
        self._asked = -REFRESH_SECONDS
        super().__init__()

    @property
    def max_concurrent(self) -> int:
        """Trials that may run or wait at this moment: nodes come and go."""
        if time.monotonic() - self._asked >= REFRESH_SECONDS:
            self._asked = time.monotonic()
            nodes = [node["Resources"] for node in living_nodes()]
            fit = self.side_by_side * groups_that_fit(nodes, self.workers, self.use_gpu)
            self._limit = max(1, self.waiting + fit)
        return self._limit

    @max_concurrent.setter
    def max_concurrent(self, value: Any) -> None:
        """The base class sets a number once; here it is asked for."""
