"""Runs the trials of a grid on a Ray cluster through Ray Tune: what is missing runs, what is half done goes on.

A one-worker trial trains in the Tune actor itself, or, side by side with others on a GPU, in the GPU's process; for
trials of several workers the actor starts a group of them (Ray Train takes seconds for it). Actors are reused, and so
are their groups.
"""

import contextlib
import functools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.ray_cluster.connection import DRIVER_RESOURCE, Resources, ray_storage
from cluster.storage.opening import open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.launch import Job, gpu_processes
from tune_jobs.grid.custom_code import code_of
from tune_jobs.grid.experiment import Trial
from tune_jobs.grid.failures import failure_of
from tune_jobs.grid.observer import Observer

if TYPE_CHECKING:
    from resnet_dist.worker_group import WorkerGroup

RETRIES = 2
"""Times that a trial is started again after its process died, or its node."""

DRIVER_MEMORY = 300 * 2**20
"""Bytes of a process that starts a worker group and waits for it."""

RAY_UNITS = 10_000
"""Parts of a resource that Ray tells apart."""

ASHA_REDUCTION = 4
"""At each rung of asha (arXiv:1810.05934), the best quarter goes on."""


def run_trials(
    trials: Sequence[Trial],
    experiment: str,
    storage_uri: str,
    resources: Resources,
    observer: Observer,
    scheduler: str = "fifo",
    side_by_side: Callable[[TrainingConfig], int] = lambda config: 1,
) -> None:
    """Run trials on the connected cluster, in their order. A failed trial is recorded and does not stop the others.

    side_by_side: how many trials are to share the GPU of such a one, if it has one.
    """
    # Trials of one worker share reused actors; each other size is a run of its own, so that drivers waiting for
    # worker groups never hold what those groups need. So are those on GPUs and those on processors, and on GPUs those
    # that share one, with others of as many threads.
    groups: defaultdict[tuple[int, bool, int, int], list[Trial]] = defaultdict(list)
    for trial in trials:
        run = trial.config.run
        use_gpu = resources.uses_gpu(run.device)
        beside = side_by_side(trial.config) if use_gpu else 1
        groups[run.workers, use_gpu, beside, run.threads if beside > 1 else 0].append(trial)
    # On a cluster what needs most places comes first; on this machine, where somebody watches, what begins at once:
    # one worker needs no group, which takes seconds to start.
    for workers, use_gpu, beside, threads in sorted(groups, reverse=not resources.is_ours):
        group = groups[workers, use_gpu, beside, threads]
        _run_group(group, workers, use_gpu, experiment, storage_uri, resources, observer, scheduler, beside)


def _run_group(
    trials: Sequence[Trial],
    workers: int,
    use_gpu: bool,
    experiment: str,
    storage_uri: str,
    resources: Resources,
    observer: Observer,
    scheduler: str,
    side_by_side: int,
) -> None:
    import ray
    from ray import tune
    from ray.air._internal import usage
    from ray.tune.execution import class_cache

    from tune_jobs.grid.concurrency import FollowsCluster
    from tune_jobs.grid.tune_callback import Progress

    # Tune would hand the driver's keys to trials as part of their runtime environment, which Ray's agents write into
    # log files. Every node has its own.
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
        [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
    )
    usage.tag_callbacks = lambda callbacks: False  # which imports MLflow and W&B where they are: a second
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # a line each: who watches is told, and the traceback lies in .ray/
    state = ray_storage(storage_uri, experiment)
    jobs = {trial.trial_id: _job(trial, experiment, storage_uri, scheduler, side_by_side) for trial in trials}
    processes = gpu_processes(trials[0].config.run.threads) if side_by_side > 1 else None
    trainable = tune.with_parameters(_train_trial, jobs=jobs, ray_storage=state, use_gpu=use_gpu, processes=processes)
    takes = actor_resources(workers, use_gpu, resources, side_by_side)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([takes])),
        param_space={"trial_id": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(
            # A trial of several workers that a search stops takes its workers with it.
            reuse_actors=workers == 1 or scheduler == "fifo",
            # Trials of one worker ask for their resources themselves, and Ray places them as nodes come. Nobody adds
            # nodes to a cluster of our own: what waited there would start a group when the others end, and take a
            # placement group that the actor which is used again makes superfluous.
            search_alg=None
            if workers == 1 and not resources.is_ours
            else FollowsCluster(workers, use_gpu, waiting=0 if resources.is_ours else 1, side_by_side=side_by_side),
            scheduler=_asha(trials) if scheduler == "asha" else None,
            trial_name_creator=lambda trial: trial.config["trial_id"],
            trial_dirname_creator=lambda trial: trial.config["trial_id"],
        ),
        run_config=tune.RunConfig(
            name=f"tune-{datetime.now(UTC):%Y%m%dT%H%M%S}-{workers}{'' if processes is None else '-beside'}",
            **state,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Progress({trial.trial_id: trial for trial in trials}, experiment, storage_uri, observer)],
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # the one for notebooks clears what else a cell shows
        ),
    )
    with _one_line():
        tuner.fit()
    if processes is not None:
        ray.kill(processes)  # and with it those that it has started
    _free_places()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn what Ray Tune does not foresee, such as an actor that is ended for memory as it starts, into advice."""
    from ray.exceptions import RayError

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error.__cause__, RayError):
            raise
        _, reason = failure_of(error.__cause__, attempts=1)
        raise UserError(
            f"a trial could not be started: {reason}; the same command goes on with what is missing"
        ) from error


def _free_places() -> None:
    """Give back what worker groups of this process's job still hold, of which no trial runs any more.

    Ray Train does so itself when a group ends by itself, but for one whose driver has gone it asks Ray's dashboard,
    which a local Ray does not have.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for group, row in placement_group_table().items():
        if group.endswith(job) and row["state"] != "REMOVED":  # the end of a group's id is its job's
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


def actor_resources(workers: int, use_gpu: bool, resources: Resources, side_by_side: int = 1) -> dict[str, int | float]:
    """What Tune's actor of a trial takes: what it trains on, or little, if it starts workers for that."""
    if workers == 1 and side_by_side > 1:
        part = math.floor(RAY_UNITS / side_by_side) / RAY_UNITS  # three thirds must not be more than a whole
        return {"CPU": part, "GPU": part}
    if workers == 1:
        return {"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}
    # The driver of a worker group waits and takes no CPU: the group brings its own placement group.
    return {"memory": DRIVER_MEMORY, **({DRIVER_RESOURCE: 1} if resources.driver_slots else {})}


def _asha(trials: Sequence[Trial]) -> Any:
    """Asynchronous successive halving by the validation error where images are held out, else by the test error."""
    from ray.tune.schedulers import ASHAScheduler

    # Its last reports have no errors in them, of which Tune would complain.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    held_out = all(trial.config.data.holdout for trial in trials)
    return ASHAScheduler(
        time_attr="epoch",
        metric="validation_error" if held_out else "top1_error",
        mode="min",
        # A trial that has reached its last epoch is finished; no rung may stop it there, before its result is written.
        max_t=max(1, max(trial.config.run.epochs for trial in trials) - 1),
        stop_last_trials=False,
        reduction_factor=ASHA_REDUCTION,
    )


def _job(trial: Trial, experiment: str, storage_uri: str, scheduler: str, side_by_side: int = 1) -> Job:
    return Job(
        trial.config,
        experiment,
        trial.name,
        functools.partial(open_storage, storage_uri),
        code_of(trial.config),
        scheduler,
        side_by_side,
    )


_GROUPS: list["WorkerGroup"] = []
"""The worker group of this process, which trains the trials that Tune gives its actor one after another."""


def _group(workers: int, ray_storage: dict[str, Any], use_gpu: bool) -> "WorkerGroup":
    from resnet_dist.launch import worker_group

    if not _GROUPS or not _GROUPS[0].is_alive:
        _GROUPS[:] = [worker_group(workers, ray_storage, use_gpu)]
    return _GROUPS[0]


def _train_trial(
    config: dict[str, Any], jobs: dict[str, Job], ray_storage: dict[str, Any], use_gpu: bool, processes: Any = None
) -> None:
    """The function that Ray Tune calls for each trial. `processes`: of GPUs on which trials run side by side."""
    from ray import tune

    from resnet_dist.errors import DivergedError, StorageError, WaitingError
    from resnet_dist.launch import run_beside, run_in_actor, run_on_workers

    job = jobs[config["trial_id"]]
    try:
        if processes is not None:
            run_beside(job, processes, on_epoch=lambda line: tune.report(dict(line)))
        elif job.config.run.workers == 1:
            run_in_actor(job, on_epoch=lambda line: tune.report(dict(line)))
        else:
            group = _group(job.config.run.workers, ray_storage, use_gpu)
            run_on_workers(job, group, on_epoch=lambda line: tune.report(dict(line)))
        # Tune prints a line to standard output for a trial that reports nothing, as one has that was killed after
        # its last epoch.
        tune.report({"finished": True})
    except DivergedError as error:
        tune.report({"diverged": str(error)})  # recorded already; to Tune it is no failure to be retried
    except WaitingError as error:
        tune.report({"waiting": str(error)})  # trained already
    except StorageError:
        raise  # it may be back when Tune tries again
    except UserError as error:
        tune.report({"failed": str(error)})  # as it would again
