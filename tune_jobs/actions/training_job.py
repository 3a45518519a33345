"""One job, run where its configuration says: in this process, or on as many Ray Train workers."""

import contextlib
from collections.abc import Iterator
from typing import Any

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.launch import Job, run_in_process, run_on_workers, worker_group
from resnet_dist.storage.interface import Storage
from tune_jobs.actions.callbacks import OnEpoch, OnStep, Say
from tune_jobs.grid.failures import failure_of


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
    from cluster.ray_cluster.hung_workers import watched

    say(f"starting {job.config.run.workers} workers")
    with watched(job.experiment, {job.config.trial_id()}, say), one_line():
        group = worker_group(job.config.run.workers, ray_storage(storage.uri, job.experiment), use_gpu)
        result = run_on_workers(job, group, on_epoch)
        group.close()
        return result


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

    from resnet_dist.worker_group import FAILURES

    try:
        yield
    except TrainingFailedError as error:
        kind, reason = failure_of(error, 1 + FAILURES)
        if kind == "error":
            raise
        raise UserError(f"{reason}; the same command goes on from the last checkpoint") from error
