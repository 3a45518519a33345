"""Three ways to call the one training function: in this process, in a Ray Tune trial, on N Ray Train workers."""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from resnet_dist import logs
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import DivergedError, StorageError, UserError, WaitingError
from resnet_dist.records.trial_record import diverged, parse_result, summary
from resnet_dist.storage.interface import Storage, TrialKeys

if TYPE_CHECKING:
    from resnet_dist.data.dataset import Dataset
    from resnet_dist.records.initial_state import InitialState
    from resnet_dist.storage.spooled import SpooledStorage
    from resnet_dist.training.loop import OnEpoch, OnStep
    from resnet_dist.workers import Workers

LOGGER = logging.getLogger(__name__)

WORKER_FAILURES = 3
"""Times that a group of workers is started again after one of its processes or nodes died."""

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

    return _train_recorded(job, Workers(0, 1, assigned_device()), **observers)


def run_on_workers(
    job: Job,
    ray_storage: dict[str, Any],
    use_gpu: bool,
    cpus_per_worker: float = 1,
    callbacks: list[Any] | None = None,
) -> dict[str, Any]:
    """Train on `run.workers` Ray Train workers of a Ray cluster that is connected already.

    `ray_storage` says where Ray keeps its own state of the run, as arguments of Ray's `RunConfig` say it: a directory
    that all nodes share, or S3.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from resnet_dist.process_group import ProcessGroupConfig

    # A group whose nodes are still being started by an autoscaler takes longer than Ray's minute.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")
    resources = {"CPU": cpus_per_worker, **({"GPU": 1} if use_gpu else {})}
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job},
        torch_config=ProcessGroupConfig(),
        scaling_config=ScalingConfig(
            num_workers=job.config.run.workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            # Train resumes an older run of the same name, so the name is the trial's own.
            name=f"train-{job.config.trial_id()}",
            **ray_storage,
            failure_config=FailureConfig(max_failures=WORKER_FAILURES),
            callbacks=callbacks or [],
        ),
    )
    try:
        trainer.fit()
    except SystemExit as stopped:  # how Ray Train answers Ctrl-C
        raise KeyboardInterrupt from stopped
    except TrainingFailedError as error:
        if (cause := _users(error)) is not None:
            raise cause from error
        raise
    storage = job.open_storage()
    try:
        record, failure = storage.get(job.keys.result), storage.get(job.keys.failure)
    except StorageError as error:
        raise _waiting(job, str(error)) from error
    if record is not None and not diverged(result := parse_result(record, job.config.trial_id())):
        return summary(result)
    said = json.loads(failure or b"{}")
    if said.get("kind") == "diverged":  # a record of another kind is of an earlier attempt: a run begins by removing it
        raise DivergedError(said["reason"])
    raise _waiting(job, f"storage could not be written on the host of its first worker: {storage.uri}")


def _users(error: Any) -> UserError | None:
    """What the user can put right among what workers, or what starts them, failed with; None if there is nothing."""
    for failure in [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]:
        cause = getattr(failure, "_base_exc", failure)  # Ray's wrapper has no public name for what is in it
        if isinstance(cause, UserError):
            return cause
    return None


def _waiting(job: Job, reason: str) -> WaitingError:
    return WaitingError(
        f"trial {job.config.trial_id()} has run, but its end is not on record: {reason}. What is missing waits in the "
        "spool of the host of its first worker, for the next launch there"
    )


def _train_worker(loop_config: dict[str, Any]) -> None:
    import ray.train
    import torch.distributed as dist

    from resnet_dist.gpus import assigned_device
    from resnet_dist.workers import Workers, take_turns

    job: Job = loop_config["job"]
    workers = Workers(dist.get_rank(), dist.get_world_size(), assigned_device())
    if workers.device.type == "cpu":
        take_turns()
    # A run that diverges would diverge again, and one whose records wait is over: Ray is not to retry them.
    with contextlib.suppress(DivergedError, WaitingError):
        _train_recorded(job, workers, on_epoch=lambda line: ray.train.report(dict(line)))


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
            result = train(job.config, dataset, workers, None, on_epoch, on_step, initial)
        LOGGER.info("%s is finished", job.name)
        return result


def _train_first(
    job: Job,
    workers: "Workers",
    dataset: "Dataset",
    machines: list[dict[str, str]],
    initial: "InitialState",
    on_epoch: "OnEpoch | None",
    on_step: "OnStep | None",
) -> dict[str, Any]:
    """Train on the worker that writes the records."""
    from resnet_dist.ray_metrics import reported
    from resnet_dist.records.recorder import Recorder
    from resnet_dist.storage.spooled import SpooledStorage
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
            text = "epoch %d: train loss %.4f, test error %.2f %%"
            LOGGER.info(text, line["epoch"], line["train_loss"], 100 * line["top1_error"], extra={"fields": line})
            if on_epoch:
                on_epoch(line | _trouble(storage))

        def after_step(step: int, loss: Any) -> None:
            if metrics:
                metrics.on_step(step, loss)
            if on_step:
                on_step(step, loss)

        try:
            result = train(job.config, dataset, workers, recorder, after_epoch, after_step, initial)
        except DivergedError as error:
            LOGGER.info("%s", error)  # whoever launched it says so, too
            recorder.fail("diverged", str(error))
            raise
    storage.require_complete(f"trial {job.config.trial_id()} is trained")
    return result


def _trouble(storage: "SpooledStorage") -> dict[str, str]:
    """What is added to an epoch's line for whoever watches the run, on another host perhaps."""
    said = f"{storage.trouble}; trials go on, and their records wait on disk"
    return {"storage_trouble": said} if storage.trouble else {}


def _content(data: DataConfig) -> DataConfig:
    """The configuration reduced to what decides which images there are, so that trials share one data set."""
    kept = ("source", "size", "fingerprint", "train_limit", "test_limit", "holdout")
    return replace(DataConfig(), batch_size=2, **{name: getattr(data, name) for name in kept})


@functools.lru_cache(maxsize=1)
def _dataset(content: DataConfig) -> Any:
    # A Tune actor trains many trials one after another: what they share is loaded once.
    from resnet_dist.data.dataset import load_dataset

    return load_dataset(content)
