"""Many runs: what `resnet-dist grid plan | run` and `tune_jobs.plan_grid`, `run_grid` do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import Place, open_storage
from resnet_dist.plurals import counted
from resnet_dist.records import trial_record
from resnet_dist.storage.interface import Storage, experiment_key
from tune_jobs.actions.callbacks import Say
from tune_jobs.actions.flush import flush_before_launch
from tune_jobs.actions.notebook import grid_observer
from tune_jobs.actions.results import Results, asked
from tune_jobs.grid.data_sizes import KNOWN_SIZES
from tune_jobs.grid.experiment import experiment_record, load_experiment
from tune_jobs.grid.experiment_file import Experiment
from tune_jobs.grid.initial_state import begins_from, put_initial_state
from tune_jobs.grid.observer import Observer, nothing
from tune_jobs.grid.packing import choose
from tune_jobs.grid.plan import Plan, make_plan
from tune_jobs.grid.reuse import take_over
from tune_jobs.report.write import Report, write_report
from tune_jobs.results.experiment_record import with_earlier_plans


@dataclass(frozen=True, repr=False)
class GridRun:
    """A launch that has come to its end."""

    started: tuple[str, ...]
    """Ids of the trials that it ran; those that were finished already are not among them."""
    unfinished: tuple[str, ...]
    """Ids of the trials that have no result: they failed, or their records have not reached storage."""
    results: Results
    """What storage holds now."""
    report: Report
    """The report that was written at the end."""

    def to_dict(self) -> dict[str, Any]:
        """States of the trials, how many were started, and the report's files, as `grid run --json` prints them."""
        return self.results.to_dict() | {"started": len(self.started), "report": list(self.report.uris)}

    def __repr__(self) -> str:
        return (
            f"<launch: {counted(len(self.started), 'trial')} run, {len(self.unfinished)} unfinished; {self.results!r}>"
        )

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def plan_grid(
    experiment: Experiment | Place,
    storage: Place,
    *,
    seeds: int | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    side_by_side: int | None = None,
    measure: bool = True,
) -> Plan:
    """What a launch would do: trials, steps, and the time and memory to expect. Nothing is run or written to storage.

    experiment: a registered one by name, the path of a TOML file, or an `Experiment`.
    storage: a directory or `s3://bucket/prefix`.
    seeds: repeat each cell with seeds 0 to seeds - 1 (default: as at the last launch, or the experiment's own).
    epochs: shorten or lengthen every run, its milestones with it.
    settings: replace settings of every cell: `{"data.source": "cifar10"}`.
    side_by_side: trials that share a GPU (default: as many as end soonest and fit).
    measure: time a few updates at each depth, once for each kind of machine.

    Raises a `UserError` of one line for whatever its caller can put right.
    """
    opened, changed, what = open_storage(storage), dict(settings or {}), asked(experiment)
    if not measure:
        return make_plan(what, opened, seeds, epochs, changed, side_by_side=side_by_side)
    from tune_jobs.grid.calibration import calibrating

    loaded = load_experiment(what, changed, epochs)
    devices = {cell.config.run.device for table in loaded.tables for cell in table.cells}
    with calibrating(devices.pop() if len(devices) == 1 else "auto") as calibration:
        return make_plan(what, opened, seeds, epochs, changed, calibration, side_by_side)


def run_grid(
    experiment: Experiment | Place,
    storage: Place,
    *,
    seeds: int | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    side_by_side: int | None = None,
    retry_failed: bool = False,
    scheduler: str = "fifo",
    observer: Observer | None = None,
    say: Say | None = None,
) -> GridRun:
    """Run what is missing of an experiment and go on with what is half done; then write its report.

    It runs on the Ray cluster of `RAY_ADDRESS`, else on this machine. One launch of an experiment acts at a time;
    interrupted, the same call goes on.

    experiment, storage, seeds, epochs, settings, side_by_side: as for `plan_grid`.
    retry_failed: also run again trials that diverged or that asha stopped.
    scheduler: `fifo`, every trial to its end; or `asha`, a search whose results stay out of the tables.
    observer: is told of each trial's start, epochs and end; say: is called with lines of text for people. With neither
        of them a notebook shows a progress bar.

    Raises a `UserError` of one line for whatever its caller can put right; a trial that fails is in `unfinished`.
    """
    from cluster.ray_cluster.address import cluster_address
    from cluster.storage.lease import lease

    cluster_address()  # one that cannot be used is refused before anything begins
    observer = observer or (Observer() if say else grid_observer())
    what, say = asked(experiment), say or nothing
    opened = open_storage(storage)
    opened.check_writable()
    name = load_experiment(what, settings, epochs).name
    with lease(opened, name, on_wait=say):
        flush_before_launch(opened, say)
        planned = make_plan(what, opened, seeds, epochs, dict(settings or {}), side_by_side=side_by_side)
        started = _launch(planned, opened, retry_failed, scheduler, epochs, side_by_side, observer, say)
        report = write_report(opened, name)
        results = Results.of(report.summary.results)
        searching = scheduler != "fifo"
        unfinished = [
            trial.trial_id
            for trial in results.trials.values()
            if trial.state != "finished" and not (searching and trial.state == "early-stopped")
        ]
        return GridRun(started, tuple(unfinished), results, report)


def _launch(
    planned: Plan,
    storage: BrowsableStorage,
    retry_failed: bool,
    scheduler: str,
    asked_epochs: int | None,
    side_by_side: int | None,
    observer: Observer,
    say: Say,
) -> tuple[str, ...]:
    """Run the trials of a plan that are to run. Returns their ids."""
    from cluster.ray_cluster.connection import connected
    from cluster.ray_cluster.hung_workers import watched
    from cluster.ray_cluster.preflight import check_cluster
    from tune_jobs.grid.run import run_trials

    name = planned.experiment.name
    for config in {trial.config.data.source: trial.config for trial in planned.to_run()}.values():
        if config.data.source in KNOWN_SIZES:  # a folder has been decoded already, to know its fingerprint
            from resnet_dist.data.dataset import dataset_fingerprint
            from resnet_dist.data.staged import bring

            dataset_fingerprint(bring(config.data, storage))
    names = {item.trial.trial_id: item.trial.name for item in planned.trials}
    record = experiment_record(
        planned.experiment, planned.seeds, planned.overrides, scheduler, names, asked_epochs=asked_epochs
    )
    for trial_id, other in planned.elsewhere.items():
        take_over(storage, name, trial_id, other)
    trials = planned.to_run(retry_failed, scheduler)
    finished = sum(item.state == "finished" for item in planned.trials)
    say(
        f"{planned.experiment.title}: {counted(len(planned.trials), 'trial')}, {finished} finished already, "
        f"{len(trials)} to run"
    )
    for said in planned.notes:
        say(f"  {said}")
    observer.on_launch(trials)
    if not trials:
        _put_record(storage, record)
        return ()
    with connected() as resources:
        configs = [trial.config for trial in trials]
        resources = check_cluster(storage, configs, resources, say)  # before anything is written
        _put_record(storage, record)
        for config in {begins_from(trial.config): trial.config for trial in trials}.values():
            put_initial_state(config, storage, storage)
        on_gpus = [config for config in configs if resources.uses_gpu(config.run.device)]
        packing = choose(on_gpus, resources.workers(use_gpu=True), resources.gpu_memory, side_by_side)
        if any(packing.of(config) > 1 for config in on_gpus):
            say(f"{packing.count} trials side by side on each GPU: {packing.why}")
        elif packing.is_asked and packing.count > 1:
            say("no trials side by side: none of them is on a GPU with updates that are captured")
        with watched(name, {trial.trial_id for trial in trials}, say):
            run_trials(trials, name, storage.uri, resources, observer, scheduler, packing.of)
    return tuple(trial.trial_id for trial in trials)


def _put_record(storage: Storage, record: dict[str, Any]) -> None:
    record = with_earlier_plans(storage, record)
    storage.put(experiment_key(record["experiment"]), trial_record.encode(record))
