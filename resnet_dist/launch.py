"""Four ways to call the one training function: here, in a Ray Tune trial, beside others on a GPU, on N workers."""

import functools
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from resnet_dist import logs
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import DivergedError
from resnet_dist.storage.interface import Storage, TrialKeys

if TYPE_CHECKING:
    from resnet_dist.data.dataset import Dataset
    from resnet_dist.data.sharded import ShardedDataset
    from resnet_dist.records.initial_state import InitialState
    from resnet_dist.storage.sending import SpooledStorage
    from resnet_dist.training.loop import OnEpoch, OnStep
    from resnet_dist.worker_group import WorkerGroup
    from resnet_dist.workers import Workers

LOGGER = logging.getLogger(__name__)

OpenStorage = Callable[[], Storage]
"""Opens the storage of a run. It travels to Ray workers, so it must pickle, and carries no credentials."""


@dataclass(frozen=True)
class Job:
    """One trial to be trained, and where its records go."""

    config: TrainingConfig
    experiment: str
    name: str
    """The trial's name in TensorBoard and reports."""
    open_storage: OpenStorage
    code: Mapping[str, str] = field(default_factory=dict)
    """Text of the modules of the user's own that the configuration names (`custom.Modules`)."""
    scheduler: str = "fifo"
    """What decides how long trials run, for the record: under anything but `fifo` the run is part of a search."""
    side_by_side: int = 1
    """Trials that share its GPU, at most."""

    @property
    def keys(self) -> TrialKeys:
        """Keys of the trial's records."""
        return TrialKeys(self.experiment, self.config.trial_id())


def run_in_process(job: Job, **observers: Any) -> dict[str, Any]:
    """Train on one worker, in this process, with `observers` as `training.train` takes them."""
    from resnet_dist.workers import alone

    return _train_recorded(job, alone(job.config.run.device), **observers)


def run_in_actor(job: Job, **observers: Any) -> dict[str, Any]:
    """The same in a process of Ray's, on the device that Ray has given it."""
    from resnet_dist.gpus import assigned_device
    from resnet_dist.workers import Workers

    return _train_recorded(job, Workers(0, 1, assigned_device(), job.side_by_side), **observers)


def gpu_processes(threads: int) -> Any:
    """What starts a process for each GPU that trials with so many `run.threads` share: a handle for Ray's actors.

    The processes live as long as the one that calls this.
    """
    from resnet_dist import side_by_side

    return side_by_side.gpu_processes(_train_beside, threads)


def run_beside(job: Job, processes: Any, on_epoch: "OnEpoch") -> None:
    """Train in a process that others share with it, on the GPU of which Ray has given this process a part."""
    from resnet_dist.side_by_side import do_beside

    if not do_beside(processes, job.config.trial_id(), job, on_epoch):
        run_in_actor(job, on_epoch=on_epoch)


def _train_beside(work: tuple[str, Job], say: "OnEpoch", on_step: "OnStep") -> None:
    from resnet_dist.gpus import device_of
    from resnet_dist.workers import Workers

    gpu, job = work
    _train_recorded(job, Workers(0, 1, device_of(gpu), job.side_by_side), on_epoch=say, on_step=on_step)


def worker_group(workers: int, ray_storage: dict[str, Any], use_gpu: bool) -> "WorkerGroup":
    """So many Ray Train workers of a Ray cluster that is connected already, to train one run after another.

    `ray_storage` is as `WorkerGroup` takes it.
    """
    from resnet_dist.worker_group import WorkerGroup

    return WorkerGroup(_train_worker, workers, ray_storage, use_gpu)


def run_on_workers(job: Job, group: "WorkerGroup", on_epoch: "OnEpoch") -> dict[str, Any]:
    """Train on a group of `run.workers` workers; each epoch's line comes to this process."""
    return dict(group.do(job, on_epoch))


def _train_worker(job: Job, workers: "Workers", say: "OnEpoch") -> dict[str, Any]:
    return _train_recorded(job, workers, on_epoch=say if workers.is_first else None)


def _train_recorded(
    job: Job, workers: "Workers", on_epoch: "OnEpoch | None" = None, on_step: "OnStep | None" = None
) -> dict[str, Any]:
    from resnet_dist.custom_code import install
    from resnet_dist.data.staged import bring, is_at_hand
    from resnet_dist.records.initial_state import fetch
    from resnet_dist.records.provenance import machines
    from resnet_dist.training.loop import train
    from resnet_dist.workers import on_device, on_threads

    logs.configure()
    on_device(workers.device)
    with on_threads(job.config.run.threads), logs.about(job.experiment, job.config.trial_id(), workers.rank):
        LOGGER.info("%s begins on %s, worker %d of %d", job.name, workers.device, workers.rank + 1, workers.size)
        install(job.code)
        data = job.config.data
        if not is_at_hand(data):
            data = bring(data, job.open_storage())
        dataset = _dataset(_content(data))
        initial = fetch(job.config, job.open_storage())
        everyone = machines(workers)  # a collective: every worker takes part
        if workers.is_first:
            result = _train_first(job, workers, dataset, everyone, initial, on_epoch, on_step)
        else:
            with _heartbeat(job, workers) as step_is:
                result = train(job.config, dataset, workers, None, on_epoch, lambda step, _: step_is(step), initial)
        LOGGER.info("%s is finished", job.name)
        return result


def _train_first(
    job: Job,
    workers: "Workers",
    dataset: "Dataset | ShardedDataset",
    machines: list[dict[str, str]],
    initial: "InitialState",
    on_epoch: "OnEpoch | None",
    on_step: "OnStep | None",
) -> dict[str, Any]:
    """Train on the worker that writes the records."""
    from resnet_dist.ray_metrics import reported
    from resnet_dist.records.recorder import Recorder
    from resnet_dist.records.trial_record import error_text
    from resnet_dist.storage.sending import SpooledStorage
    from resnet_dist.training.loop import train

    storage = SpooledStorage(job.open_storage(), job.experiment, job.config.trial_id())
    recorder = Recorder(storage, job.experiment, job.name, job.config, job.scheduler, job.code)
    recorder.machines = machines
    recorder.images = dataset.counts()
    # Storage is left first, so that what waits for it is reported to the last.
    with reported(recorder, storage, job.config) as metrics, storage:

        def after_epoch(line: dict[str, Any]) -> None:
            if metrics:
                metrics.on_epoch(line)
            text, error = "epoch %d: train loss %.4f, test error %s", error_text(line)
            LOGGER.info(text, line["epoch"], line["train_loss"], error, extra={"fields": line})
            if on_epoch:
                on_epoch(line | _trouble(storage))

        def after_step(step: int, loss: Any) -> None:
            step_is(step)
            if metrics:
                metrics.on_step(step, loss)
            if on_step:
                on_step(step, loss)

        try:
            # Not around the wait for storage, which has a patience of its own.
            with _heartbeat(job, workers) as step_is:
                result = train(job.config, dataset, workers, recorder, after_epoch, after_step, initial)
        except DivergedError as error:
            LOGGER.info("%s", error)  # whoever launched it says so, too
            recorder.fail("diverged", str(error))
            raise
    storage.require_complete(f"trial {job.config.trial_id()} is trained")
    return result


def _heartbeat(job: Job, workers: "Workers") -> AbstractContextManager[Callable[[int], None]]:
    from resnet_dist.heartbeat import heartbeat

    return heartbeat(job.experiment, job.config.trial_id(), job.name, workers.rank, workers.size)


def _trouble(storage: "SpooledStorage") -> dict[str, str]:
    """What is added to an epoch's line for whoever watches the run, on another host perhaps."""
    said = f"{storage.trouble}; trials go on, and their records wait on disk"
    return {"storage_trouble": said} if storage.trouble else {}


def _content(data: DataConfig) -> DataConfig:
    """The configuration reduced to what decides which images there are, so that trials share one data set."""
    kept = ("train_limit", "test_limit", "holdout")
    return replace(data.images_alone(), batch_size=2, **{name: getattr(data, name) for name in kept})


@functools.lru_cache(maxsize=1)
def _dataset(content: DataConfig) -> Any:
    # A Tune actor trains many trials one after another: what they share is loaded once.
    from resnet_dist.data.dataset import open_dataset

    return open_dataset(content)
