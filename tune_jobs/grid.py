"""Runs the trials of a grid on a Ray cluster through Ray Tune: what is missing runs, what is half done goes on.

A one-worker trial trains in the Tune actor itself, and actors are reused; only a trial that needs several workers
starts Ray Train (its worker group costs seconds).
"""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.ray_cluster import DRIVER_RESOURCE, Resources
from cluster.storage import open_storage
from resnet_dist.launch import Job
from tune_jobs.experiment import Trial

if TYPE_CHECKING:
    from tune_jobs.progress import Observer

RETRIES = 2
"""Times that a trial is started again after its process died, or its node."""

DRIVER_MEMORY = 300 * 2**20
"""Bytes of a process that starts a worker group and waits for it."""


def run_trials(
    trials: Sequence[Trial], experiment: str, storage_uri: str, resources: Resources, observer: "Observer"
) -> None:
    """Run trials to their end on the connected cluster. A failed trial is recorded and does not stop the others."""
    use_gpu = _use_gpu(trials, resources)
    # Trials of one worker share reused actors; each other size is a run of its own, so that drivers waiting for
    # worker groups never hold what those groups need.
    for workers in sorted({trial.config.run.workers for trial in trials}, reverse=True):
        group = [trial for trial in trials if trial.config.run.workers == workers]
        _run_group(group, workers, use_gpu, experiment, storage_uri, resources, observer)


def require_workers(trials: Sequence[Trial], resources: Resources) -> None:
    """Raise a `UserError` if a trial wants more workers than the cluster has places for."""
    use_gpu = _use_gpu(trials, resources)
    for workers in sorted({trial.config.run.workers for trial in trials}):
        resources.require_workers(workers, use_gpu)


def _use_gpu(trials: Sequence[Trial], resources: Resources) -> bool:
    wanted = {trial.config.run.device for trial in trials}
    return "cuda" in wanted or (resources.gpus > 0 and "cpu" not in wanted)


def _run_group(
    trials: Sequence[Trial],
    workers: int,
    use_gpu: bool,
    experiment: str,
    storage_uri: str,
    resources: Resources,
    observer: "Observer",
) -> None:
    from ray import tune

    from tune_jobs.progress import Progress

    ray_storage = f"{storage_uri.rstrip('/')}/{experiment}/.ray"
    bundles: list[dict[str, int | float]]
    if workers == 1:
        bundles = [{"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}]
        concurrent = None
    else:
        # The driver of a worker group waits and takes no CPU: the group brings its own placement group.
        bundles = [{"memory": DRIVER_MEMORY, **({DRIVER_RESOURCE: 1} if resources.driver_slots else {})}]
        concurrent = max(1, (resources.gpus if use_gpu else resources.cpus) // workers)
        if resources.driver_slots:
            concurrent = min(concurrent, resources.driver_slots)
    jobs = {trial.trial_id: _job(trial, experiment, storage_uri) for trial in trials}
    trainable = tune.with_parameters(_train_trial, jobs=jobs, ray_storage=ray_storage, use_gpu=use_gpu)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory(bundles)),
        param_space={"trial_id": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(
            reuse_actors=workers == 1,
            max_concurrent_trials=concurrent,
            trial_name_creator=lambda trial: trial.config["trial_id"],
            trial_dirname_creator=lambda trial: trial.config["trial_id"],
        ),
        run_config=tune.RunConfig(
            name=f"tune-{datetime.now(UTC):%Y%m%dT%H%M%S}-{workers}",
            storage_path=ray_storage,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Progress({trial.trial_id: trial for trial in trials}, experiment, storage_uri, observer)],
            verbose=0,
        ),
    )
    tuner.fit()


def _job(trial: Trial, experiment: str, storage_uri: str) -> Job:
    return Job(trial.config, experiment, trial.name, functools.partial(open_storage, storage_uri))


def _train_trial(config: dict[str, Any], jobs: dict[str, Job], ray_storage: str, use_gpu: bool) -> None:
    """The function that Ray Tune calls for each trial."""
    from ray import tune

    from resnet_dist.errors import DivergedError, WaitingError
    from resnet_dist.launch import run_in_process, run_on_workers

    job = jobs[config["trial_id"]]
    try:
        if job.config.run.workers == 1:
            run_in_process(job, on_epoch=lambda line: tune.report(dict(line)))
        else:
            from ray.tune.integration.ray_train import TuneReportCallback

            run_on_workers(job, ray_storage, use_gpu, callbacks=[TuneReportCallback()])
        # Tune prints a line to standard output for a trial that reports nothing, as one has that was killed after
        # its last epoch.
        tune.report({"finished": True})
    except DivergedError as error:
        tune.report({"diverged": str(error)})  # recorded already; to Tune it is no failure to be retried
    except WaitingError as error:
        tune.report({"waiting": str(error)})  # trained already
