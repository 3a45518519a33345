"""What a grid will run: its trials, their state in storage, their steps and the time to expect."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resnet_dist.configuration import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.storage import Storage
from tune_jobs.experiment import Experiment, Trial, load_experiment, trials
from tune_jobs.results import read_trials, refuse_other_layout

EVALUATION_COST = 1 / 3
"""Cost of evaluating an image beside that of training on it: a forward pass without a backward one."""


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
    hours: float | None
    """Worker-hours that remain, from a measured step time; None if not measured."""


@dataclass(frozen=True)
class Plan:
    """A grid, expanded and held against storage."""

    experiment: Experiment
    overrides: dict[str, Any]
    seeds: int
    cells: int
    """Rows of all tables; a configuration that stands in several tables is several cells and one trial."""
    trials: tuple[PlannedTrial, ...]

    def to_run(self, retry_failed: bool = False, scheduler: str = "fifo") -> list[Trial]:
        """Trials that a launch starts, the longest first.

        One that diverged would do so again, and a search does not take up what it has stopped.
        """
        searching = scheduler != "fifo"
        waiting = [
            planned
            for planned in self.trials
            if planned.state != "finished"
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


def _cost(planned: PlannedTrial) -> float:
    network = planned.trial.config.network
    return network.depth * network.width**2 * planned.trial.config.data.batch_size * planned.steps


def make_plan(
    name_or_path: str,
    storage: Storage,
    seeds: int | None,
    epochs: int | None,
    overrides: dict[str, Any],
    measure: Callable[[TrainingConfig], float] | None = None,
) -> Plan:
    """Expand an experiment and hold it against storage. Loads the data, if it is not cached, to know its size.

    `measure` gives the seconds of one update of a configuration.
    """
    experiment = load_experiment(name_or_path, overrides, epochs)
    sources = {cell.config.data.source for table in experiment.tables for cell in table.cells}
    if len(sources) == 1 and (source := sources.pop()).startswith("folder:"):
        from resnet_dist.dataset import dataset_fingerprint

        data = replace(TrainingConfig().data, source=source, fingerprint=overrides.get("data.fingerprint", ""))
        overrides = overrides | {"data.fingerprint": dataset_fingerprint(data)}
        experiment = load_experiment(name_or_path, overrides, epochs)
    elif any(source.startswith("folder:") for source in sources):
        raise UserError(f"{experiment.name}: cells on different folder: sources; give one with --data.source")
    seeds = seeds or experiment.seeds
    refuse_other_layout(storage, experiment.name)
    expanded = trials(experiment, seeds)
    # By their own records, not by experiment.json: an earlier launch may have asked for others than the last one.
    asked = {trial.trial_id: {"name": trial.name, "config": trial.config.to_dict()} for trial in expanded}
    known, _ = read_trials(storage, experiment.name, asked, details=False)
    planned = []
    for trial in expanded:
        results = known[trial.trial_id]
        steps = _steps(trial.config, trial.config.run.epochs)
        done = _steps(trial.config, results.epochs_done)
        hours = None
        if measure and results.state != "finished":
            share = 1 + EVALUATION_COST * test_images(trial.config) / train_images(trial.config)
            hours = measure(trial.config) * (steps - done) * share / 3600
        planned.append(PlannedTrial(trial, results.state, results.failure, steps, done, hours))
    cells = sum(len(table.cells) for table in experiment.tables)
    return Plan(experiment, overrides, seeds, cells, tuple(planned))


def _steps(config: TrainingConfig, epochs: int) -> int:
    from resnet_dist.batches import EpochPlan

    return EpochPlan(train_images(config), config.data.batch_size, config.data.sampling).start(epochs)


KNOWN_SIZES = {"synthetic": (10_000, 2_000), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000)}
"""Training and test images of the sources whose content is fixed."""


def train_images(config: TrainingConfig) -> int:
    """Images that a run trains on."""
    return (config.data.train_limit or _sizes(config)[0]) - config.data.holdout


def test_images(config: TrainingConfig) -> int:
    """Images that a run is tested on at each epoch."""
    return config.data.test_limit or _sizes(config)[1]


def _sizes(config: TrainingConfig) -> tuple[int, int]:
    if config.data.source in KNOWN_SIZES:
        return KNOWN_SIZES[config.data.source]
    from resnet_dist.dataset import dataset_sizes

    return dataset_sizes(config.data)


def parallel_slots(planned: Sequence[PlannedTrial]) -> int:
    """One-worker trials that this machine runs at a time."""
    return max(1, min(os.cpu_count() or 1, len(planned)))
