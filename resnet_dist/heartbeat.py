"""Signs of life of a trial's workers, for whoever launched it: which process each is, how far it is, how it ended.

They stand where every node of a Ray cluster can read them, one a worker. A worker that trains alone outside Ray gives
none. A thread writes them, so a worker that waits for another one lives, and one that was stopped does not; who watches
tells them apart (`cluster.ray_cluster.hung_workers`).
"""

import json
import logging
import os
import platform
import secrets
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from resnet_dist.threads import repeated

LOGGER = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two signs."""
NAMESPACE = b"resnet_dist"


@dataclass(frozen=True)
class Sign:
    """What a worker says of itself."""

    trial: str
    name: str
    """The trial's, in reports."""
    rank: int
    size: int
    process: int
    host: str
    node: str
    """Ray's name of the node."""
    attempt: str
    """Random: of this process's work on this trial."""
    beat: int = 0
    """Counts the signs."""
    first_step: int = 0
    """The first step of this attempt; 0 before it."""
    step: int = 0
    """The newest step."""
    ended: str = ""
    """Why it ended before the trial did; empty while it works, and if it could not say so any more."""

    @property
    def worker(self) -> str:
        """In words."""
        return f"worker {self.rank + 1} of {self.size} (process {self.process} on {self.host})"


@contextmanager
def heartbeat(experiment: str, trial: str, name: str, rank: int, size: int) -> Iterator[Callable[[int], None]]:
    """Give signs of life during the block, which tells of each step. One that ends ill leaves how it ended."""
    store = _store()
    if store is None:
        yield lambda step: None
        return
    import ray

    node = ray.get_runtime_context().get_node_id()
    key = f"{experiment}/{trial}/{rank}".encode()
    sign = asdict(Sign(trial, name, rank, size, os.getpid(), platform.node(), node, attempt=secrets.token_hex(8)))

    def put() -> None:
        store._internal_kv_put(key, json.dumps(sign).encode(), namespace=NAMESPACE)

    def beat() -> None:
        sign["beat"] += 1
        put()

    def step_is(step: int) -> None:
        sign["first_step"] = sign["first_step"] or step
        sign["step"] = step

    try:
        # A sign under way would come after the last one, and stay: who watches would take it for a worker that hangs.
        with repeated(beat, INTERVAL, "heartbeat", "a sign of life cannot be given"):
            yield step_is
    except BaseException as error:
        sign["ended"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        _say_last(put)
        raise
    _say_last(lambda: store._internal_kv_del(key, namespace=NAMESPACE))


def _say_last(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:  # the run does not depend on it
        LOGGER.warning("the last sign of life cannot be given: %r", error)


def signs(experiment: str, trials: Collection[str]) -> list[Sign]:
    """The signs of all workers of some trials."""
    store = _store()
    if store is None:
        return []
    keys = store._internal_kv_list(f"{experiment}/".encode(), namespace=NAMESPACE)
    found = [store._internal_kv_get(key, namespace=NAMESPACE) for key in keys if _trial(key) in trials]
    return [Sign(**json.loads(data)) for data in found if data]


def forget(experiment: str, trials: Collection[str]) -> None:
    """Remove the signs of earlier launches of some trials."""
    if (store := _store()) is not None:
        for trial in trials:
            store._internal_kv_del(f"{experiment}/{trial}/".encode(), del_by_prefix=True, namespace=NAMESPACE)


def _trial(key: bytes) -> str:
    return key.decode().split("/")[-2]


def _store() -> Any:
    """Ray's store of values by name, if this process belongs to a cluster; asks without importing Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.experimental import internal_kv

    return internal_kv
