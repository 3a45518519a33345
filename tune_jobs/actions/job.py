"""One job, run where its configuration says: in this process, or on as many Ray Train workers."""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import StorageError, UserError
from resnet_dist.launch import WORKER_FAILURES, Job, run_in_process, run_on_workers
from resnet_dist.storage.interface import Storage
from tune_jobs.actions.said import OnEpoch, OnStep, Say
from tune_jobs.grid.failures import failure_of

LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def placed(config: TrainingConfig, storage: Storage, say: Say) -> Iterator[bool]:
    """Connect to the cluster that several workers run on, for the duration of the block; one needs none.

    Yields whether the workers are to use GPUs. Raises a `UserError` if there are fewer places than workers, or a node
    that cannot do its part.
    """
    run = config.run
    if run.workers == 1:
        yield False
        return
    from cluster.ray_cluster.connection import connected
    from cluster.ray_cluster.preflight import check_cluster

    with connected() as resources:
        resources = check_cluster(storage, [config], resources, say)
        yield resources.uses_gpu(run.device)


def run_job(
    job: Job, storage: Storage, use_gpu: bool, say: Say, on_epoch: OnEpoch, on_step: OnStep | None = None
) -> dict[str, Any]:
    """Train, and tell of each epoch; of each step, too, in this process. Called in a `placed` block."""
    if job.config.run.workers == 1:
        with _memory_named():
            return run_in_process(job, on_epoch=on_epoch, on_step=on_step)
    from cluster.ray_cluster.connection import ray_storage

    say(f"starting {job.config.run.workers} workers")
    with Follower(storage, job, on_epoch), one_line():
        return run_on_workers(job, ray_storage(storage.uri, job.experiment), use_gpu)


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
    """Turn a lack of memory, of the machine or of its GPU, into a `UserError` with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's errors of either are RuntimeErrors
        kind, reason = failure_of(error, 1)
        if kind != "out_of_memory":
            raise
        raise UserError(reason) from error


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn what workers failed with into a `UserError`, unless it is a bug."""
    from ray.train import TrainingFailedError

    try:
        yield
    except TrainingFailedError as error:
        kind, reason = failure_of(error, 1 + WORKER_FAILURES)
        if kind == "error":
            raise
        raise UserError(f"{reason}; the same command goes on from the last checkpoint") from error


class Follower:
    """Tells of the epochs of a run on other processes as its metrics lines reach storage.

    While storage cannot be read it tells nothing: the run goes on, and says itself at its end what is missing.
    """

    def __init__(self, storage: Storage, job: Job, on_epoch: OnEpoch) -> None:
        self.storage = storage
        self.job = job
        self.on_epoch = on_epoch
        self.told = 0
        self.failed = False
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Follower":
        with contextlib.suppress(StorageError):
            self.told = len(self._lines())
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(5)
        if not self.thread.is_alive():  # or storage hangs
            self.tell()

    def _follow(self) -> None:
        while not self.stop.wait(1.0):
            self.tell()

    def tell(self) -> None:
        """Tell of what has come to storage since the last time."""
        try:
            for line in self._lines()[self.told :]:
                self.on_epoch(line)
                self.told += 1
        except StorageError:
            pass  # the workers say so
        except Exception as error:
            if not self.failed:
                LOGGER.warning("the run's epochs cannot be shown: %r", error)
            self.failed = True

    def _lines(self) -> list[dict[str, Any]]:
        data = self.storage.get(self.job.keys.metrics) or b""
        return [json.loads(line) for line in data.decode().splitlines()]
