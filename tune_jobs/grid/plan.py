"""What a grid will run: its trials, their state in storage, their steps and the time to expect."""

import contextlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

from cluster.storage.keys import BrowsableStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.epochs import EpochPlan
from resnet_dist.durations import in_words
from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage
from tune_jobs.grid import pruning, storage_use
from tune_jobs.grid.custom_code import bind_experiment
from tune_jobs.grid.data_sizes import VIEWS, image_memory, test_images, train_images
from tune_jobs.grid.experiment import Trial, keep_names, load_experiment, on_known_images, trials
from tune_jobs.grid.experiment_file import Experiment
from tune_jobs.grid.initial_state import bind_experiment_state
from tune_jobs.grid.packing import Packing, choose, require_streams
from tune_jobs.grid.reuse import finished_elsewhere
from tune_jobs.results.experiment_record import read_record, refuse_other_record
from tune_jobs.results.html_table import html_table
from tune_jobs.results.trials import TrialResults, read_trials, tally

if TYPE_CHECKING:
    from tune_jobs.grid.calibration import Calibration

PROCESS_MEMORY = 400 * 2**20
"""Bytes of a worker's process with its libraries, before there is a network or an image."""

SOLVER_MEMORY = {"sgd": 1, "rmsprop": 1, "adagrad": 1, "adadelta": 2, "adam": 2, "adamw": 2}
"""Numbers that a solver keeps for each weight."""


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a plan."""

    trial: Trial
    state: str
    """As `results.TrialResults.state`; `missing` for one that storage knows nothing of."""
    failure: str
    """Kind of failure if it has failed, as in `failure.json`."""
    steps: int
    """Updates of the weights, over the whole run."""
    steps_done: int
    """Updates whose epochs are recorded already."""
    hours: float | None = None
    """Worker-hours that remain, from a measured step time; None if not measured."""
    memory: int | None = None
    """Bytes that each of its workers takes, computed from what was measured of one update; None if not measured."""
    decoding: tuple[float, float] | None = None
    """Of images in shards: seconds that a core takes to decode one, and images that a worker's step takes a second."""
    storage: tuple[int, int] | None = None
    """Requests and bytes sent to storage, of a finished trial that one attempt has run; None if they are not known."""
    expected_storage: tuple[float, float] | None = None
    """The same of one that is not finished, from a measured step time; None if not measured."""

    @property
    def decoding_cores(self) -> float | None:
        """Cores whose decoding keeps a worker's GPU, or whatever it computes on, busy; None if not measured."""
        return self.decoding and self.decoding[0] * self.decoding[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "trial": self.trial.trial_id,
            "name": self.trial.name,
            "state": self.state,
            "workers": self.trial.config.run.workers,
            "epochs": self.trial.config.run.epochs,
            "steps": self.steps,
            "steps_done": self.steps_done,
            "hours": self.hours,
            "memory_bytes": self.memory,
            "decoding_cores": self.decoding_cores,
            "config": self.trial.config.to_dict(),
        }


@dataclass(frozen=True)
class PlannedCell:
    """One row of one table."""

    table: str
    label: str
    trials: tuple[PlannedTrial, ...]
    """By seed."""
    also_in: tuple[str, ...]
    """Other tables in which the same trials stand."""

    @property
    def states(self) -> str:
        """What storage has of its trials: `1 finished, 2 missing`."""
        return tally(self.trials)


@dataclass(frozen=True, repr=False)
class Plan:
    """A grid, expanded and held against storage."""

    experiment: Experiment
    overrides: dict[str, Any]
    seeds: int
    cells: tuple[PlannedCell, ...]
    """Rows of all tables; a configuration that stands in several tables is several cells and one trial a seed."""
    trials: tuple[PlannedTrial, ...]
    machine: str = ""
    """Processor or GPU on which step times were measured; empty if they were not."""
    slots: int = 1
    """Workers that the cluster runs at a time."""
    packing: Packing = field(default_factory=Packing)
    """How many trials share a GPU."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Other experiments of the storage that have finished trials of this one: their names by the trials' ids."""
    notes: tuple[str, ...] = ()
    """What is there and not part of this plan, and what it took from the last launch."""

    @property
    def configurations(self) -> int:
        """Different configurations, whatever their seeds."""
        return len({cell.trials[0].trial.cell for cell in self.cells})

    @property
    def shared(self) -> int:
        """Configurations that stand in more than one table."""
        return len({cell.trials[0].trial.cell for cell in self.cells if cell.also_in})

    def to_run(self, retry_failed: bool = False, scheduler: str = "fifo") -> list[Trial]:
        """Trials that a launch starts, the longest first.

        One that diverged would do so again, and a search does not take up what it has stopped.
        """
        searching = scheduler != "fifo"
        waiting = [
            planned
            for planned in self.trials
            if planned.state != "finished"
            and planned.trial.trial_id not in self.elsewhere
            and (
                retry_failed or not (planned.failure == "diverged" or (searching and planned.state == "early-stopped"))
            )
        ]
        return [planned.trial for planned in sorted(waiting, key=_cost, reverse=True)]

    @property
    def hours(self) -> float | None:
        """Worker-hours that remain over all trials that are not finished."""
        hours = [planned.hours for planned in self.trials if planned.state != "finished"]
        return None if None in hours else sum(hour for hour in hours if hour is not None)

    @property
    def storage(self) -> tuple[float, float] | None:
        """Requests of a trial and bytes that it sends to storage: the mean of the finished ones; None without any."""
        known = [planned.storage for planned in self.trials if planned.storage]
        if not known:
            return None
        requests, sent = zip(*known, strict=True)
        return sum(requests) / len(known), sum(sent) / len(known)

    @property
    def expected_storage(self) -> tuple[float, float] | None:
        """Requests of all trials that are not finished, and bytes that they will send; None if nothing was measured."""
        waiting = [planned.expected_storage for planned in self.trials if planned.state != "finished"]
        known = [item for item in waiting if item]
        if not known or len(known) < len(waiting):
            return None
        requests, sent = zip(*known, strict=True)
        return sum(requests), sum(sent)

    @property
    def cluster_hours(self) -> float | None:
        """Hours until all is done on the cluster; None if nothing was measured."""
        return self.hours_with(self.slots)

    def hours_with(self, slots: int) -> float | None:
        """Hours until all is done on a cluster that runs so many workers at a time, as a launch goes about it.

        Trials of each number of workers by themselves, and those that share GPUs, the longest first, each as soon as
        there is room.
        """
        if self.hours is None:
            return None
        known = {planned.trial.trial_id: planned for planned in self.trials}
        waiting = [known[trial.trial_id] for trial in self.to_run()]
        total = 0.0
        groups: dict[tuple[int, int], list[float]] = {}
        for planned in waiting:
            config = planned.trial.config
            hours = (planned.hours or 0.0) * self.packing.slowed(config) / config.run.workers
            groups.setdefault((config.run.workers, self.packing.of(config)), []).append(hours)
        for (workers, beside), each in groups.items():
            free = [0.0] * max(1, beside * slots // workers)  # when each place is free again
            for hours in each:
                heapq.heapreplace(free, free[0] + hours)
            total += max(free)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `grid plan --json` prints them.

        `storage` is null before the first trial is finished, `expected_storage` if nothing was measured.
        """
        return {
            "experiment": self.experiment.name,
            "seeds": self.seeds,
            "cells": len(self.cells),
            "shared_trials": self.shared,
            "hours": self.hours,
            "hours_on_this_cluster": self.cluster_hours,
            "machine": self.machine,
            "slots": self.slots,
            "side_by_side": self.packing.count,
            "storage": self.storage and dict(zip(("requests", "sent"), self.storage, strict=True)),
            "expected_storage": self.expected_storage
            and dict(zip(("requests", "sent"), self.expected_storage, strict=True)),
            "tables": [
                {
                    "name": table.name,
                    "cells": [
                        {
                            "label": cell.label,
                            "trials": [item.trial.trial_id for item in cell.trials],
                            "also_in": list(cell.also_in),
                        }
                        for cell in self.cells
                        if cell.table == table.name
                    ],
                }
                for table in self.experiment.tables
            ],
            "trials": [planned.to_dict() for planned in self.trials],
            "finished_elsewhere": dict(self.elsewhere),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return f"<plan of {self.experiment.name}: {counted(len(self.trials), 'trial')}, {len(self.to_run())} to run>"

    def _repr_html_(self) -> str:
        rows = [
            (cell.label, first.trial.trial_id, str(first.trial.config.run.epochs), f"{first.steps:,}", cell.states)
            for cell in self.cells
            for first in cell.trials[:1]
        ]
        left = self.cluster_hours
        expected = f"; {in_words(3600 * left)} with {counted(self.slots, 'worker')} at a time" if left else ""
        said = [*self.notes, f"{counted(len(self.trials), 'trial')}, {len(self.to_run())} to run{expected}"]
        table = html_table(("cell", "trial", "epochs", "steps", "storage"), rows, self.experiment.title)
        return table + "".join(f"<p>{escape(line)}</p>" for line in said)


def _cost(planned: PlannedTrial) -> float:
    network = planned.trial.config.network
    return network.depth * network.channels**2 * planned.trial.config.data.batch_size * planned.steps


def make_plan(
    what: "Experiment | str",
    storage: BrowsableStorage,
    seeds: int | None,
    epochs: int | None,
    overrides: dict[str, Any],
    calibration: "Calibration | None" = None,
    side_by_side: int | None = None,
) -> Plan:
    """Expand an experiment, as `load_experiment` takes it, and hold it against storage.

    Loads the data, if it is not cached, to know its size. `calibration` gives what an update costs, and of which GPUs;
    `side_by_side`: trials that share one, if that is not to be chosen.
    """
    require_streams(side_by_side)
    experiment, overrides = _with_data(what, storage, epochs, overrides)
    experiment = bind_experiment_state(experiment, storage)
    refuse_other_record(storage, experiment.name)
    earlier = _earlier(storage, experiment.name)
    notes = []
    if seeds is None and (last := int(earlier.get("seeds", 0))) > experiment.seeds:
        notes.append(
            f"{counted(last, 'seed')}, as the last launch had; the experiment's own number is {experiment.seeds}"
        )
        seeds = last
    seeds = experiment.seeds if seeds is None else seeds
    expanded = keep_names(trials(experiment, seeds), earlier.get("trials", {}))
    # By their own records, not by experiment.json: an earlier launch may have asked for others than the last one.
    asked = {trial.trial_id: {"name": trial.name, "config": trial.config.to_dict()} for trial in expanded}
    known, unlisted = read_trials(storage, experiment.name, asked, details=False)
    if unlisted:
        notes.append(pruning.note(pruning.describe(storage, experiment.name, unlisted, asked), "grid prune"))
    missing = [trial_id for trial_id, trial in known.items() if trial.state != "finished"]
    elsewhere = finished_elsewhere(storage, experiment.name, missing)
    for other, count in Counter(elsewhere.values()).items():
        notes.append(
            f"{counted(count, 'trial')} finished in experiment {other} of this storage: taken over, not trained again"
        )
    planned = tuple(_planned(trial, known[trial.trial_id], calibration) for trial in expanded)
    plan = Plan(
        experiment,
        overrides,
        seeds,
        _cells(experiment, planned),
        planned,
        calibration.machine if calibration else "",
        calibration.slots if calibration else 1,
        elsewhere=elsewhere,
        notes=tuple(notes),
    )
    if calibration is None or calibration.gpu_memory is None:
        return plan
    waiting = [trial.config for trial in plan.to_run()]
    return replace(plan, packing=choose(waiting, calibration.slots, calibration.gpu_memory, side_by_side))


def _with_data(
    what: "Experiment | str", storage: BrowsableStorage, epochs: int | None, overrides: dict[str, Any]
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment, with the fingerprint of data that have one, and the overrides that gave it that."""
    experiment = bind_experiment(load_experiment(what, overrides, epochs), what)
    sources = {cell.config.data.source for table in experiment.tables for cell in table.cells}
    by_content = {source for source in sources if replace(TrainingConfig().data, source=source).identified_by_content}
    if not by_content:
        return experiment, overrides
    if len(sources) > 1:
        raise UserError(
            f"{experiment.name}: cells on different sources, {min(by_content)} among them; give one as data.source"
        )
    from resnet_dist.data.dataset import dataset_fingerprint
    from resnet_dist.data.staged import bring

    data = experiment.tables[0].cells[0].config.data.images_alone()
    data = replace(data, fingerprint=overrides.get("data.fingerprint", ""))
    overrides = overrides | {"data.fingerprint": dataset_fingerprint(bring(data, storage))}
    experiment = bind_experiment(load_experiment(what, overrides, epochs), what)
    if data.is_streamed:
        from resnet_dist.data.known_sets import known_name
        from resnet_dist.data.sharded import open_shards

        experiment = on_known_images(experiment, known_name(open_shards(data)[1]))
    return experiment, overrides


def _planned(trial: Trial, results: TrialResults, calibration: "Calibration | None") -> PlannedTrial:
    """A trial of which storage has these results, and what the rest of it costs if that is measured."""
    config, stored = trial.config, None
    if results.result.get("attempts") == 1 and "storage_requests" in results.result:
        stored = (int(results.result["storage_requests"]), int(results.result["storage_bytes"]))
    steps, done = _steps(config, config.run.epochs), _steps(config, results.epochs_done)
    planned = PlannedTrial(trial, results.state, results.failure, steps, done, storage=stored)
    if calibration is None or results.state == "finished":
        return planned
    cost = calibration(config)
    evaluated = VIEWS[config.data.test_crops] / config.run.evaluation_epochs * test_images(config)
    share = 1 + calibration.evaluation_cost * evaluated / train_images(config)
    hours = cost.seconds * (steps - done) * share / 3600
    copies = 1 + SOLVER_MEMORY.get(config.solver.kind, 2)
    return replace(
        planned,
        hours=hours,
        memory=_memory(config, cost.activations, cost.weights) if cost.activations else None,
        decoding=(cost.decoding, config.data.batch_size / cost.seconds) if cost.decoding else None,
        expected_storage=storage_use.expected(config, 3600 * hours / config.run.workers, steps, cost.weights, copies),
    )


def _earlier(storage: Storage, name: str) -> dict[str, Any]:
    """The record of the last launch; empty if there is none that can be read, which a launch writes anew."""
    with contextlib.suppress(UserError):
        return read_record(storage, name)
    return {}


def _cells(experiment: Experiment, planned: Sequence[PlannedTrial]) -> tuple[PlannedCell, ...]:
    by_cell: dict[str, list[PlannedTrial]] = {}
    for item in planned:
        by_cell.setdefault(item.trial.cell, []).append(item)
    tables: dict[str, list[str]] = {}
    for table in experiment.tables:
        for cell in table.cells:
            tables.setdefault(cell.config.trial_id(), []).append(table.name)
    return tuple(
        PlannedCell(
            table.name,
            cell.label,
            tuple(by_cell[cell.config.trial_id()]),
            tuple(other for other in tables[cell.config.trial_id()] if other != table.name),
        )
        for table in experiment.tables
        for cell in table.cells
    )


def _memory(config: TrainingConfig, activations: int, weights: int) -> int:
    workers = config.run.workers
    copies = 2 + SOLVER_MEMORY.get(config.solver.kind, 2)  # themselves, their gradients, and what the solver keeps
    return PROCESS_MEMORY + image_memory(config) + copies * weights + activations // workers


def _steps(config: TrainingConfig, epochs: int) -> int:
    return EpochPlan(train_images(config), config.data.batch_size, config.data.sampling).first_step(epochs)
