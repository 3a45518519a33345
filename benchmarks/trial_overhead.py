"""What a one-worker trial costs in a grid beyond its training, once the grid is warm.

A grid of tiny trials runs on a local Ray with as many trials at a time as there are slots. A slot is free for the
next trial when one finishes, so with S slots the time from one finish to the S-th after it is what one trial took of
its slot. Less the seconds of training that the trial itself reports, that is its cost: Ray Tune's turn-over, the
network's construction, the test pass, and every record in storage from config.json to result.json.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.targets import Target
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.storage.interface import TrialKeys

COST_TARGET = 1.0
WARM_UP_ROUNDS = 3
"""Trials of each slot that do not count: actors start, import torch, load the data."""


@dataclass(frozen=True)
class Finished:
    """One trial that has finished."""

    at: float
    """When its result record was written, in seconds since some fixed moment."""
    training: float
    """Seconds of training that it reports."""


def tiny_trials(count: int) -> list[TrainingConfig]:
    """An 8-layer network of width 4 for one epoch of four updates; everything else as in any trial."""
    settings = {
        "network.depth": 8,
        "network.width": 4,
        "data.train_limit": 512,
        "data.test_limit": 100,
        "run.epochs": 1,
        "schedule.milestones": [],
    }
    config = TrainingConfig().override(settings)
    return [replace(config, run=replace(config.run, seed=seed)) for seed in range(count)]


def costs(finished: Sequence[Finished], slots: int) -> list[float]:
    """Seconds beyond its training of each trial once warm, given all trials of a grid that kept `slots` slots busy."""
    ordered = sorted(finished, key=lambda trial: trial.at)
    warm = range(WARM_UP_ROUNDS * slots, len(ordered))
    return [ordered[i].at - ordered[i - slots].at - ordered[i].training for i in warm]


def measure(measured: int) -> list[float]:
    """Run a grid and return the cost of `measured` trials, in the order in which they finished."""
    from cluster.ray_cluster.connection import connected
    from tune_jobs.grid.experiment import Trial
    from tune_jobs.grid.observer import Observer
    from tune_jobs.grid.run import run_trials

    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage:
        with connected() as resources:
            slots = resources.gpus or resources.cpus
            configs = tiny_trials(WARM_UP_ROUNDS * slots + measured)
            trials = [Trial(config, f"seed-{config.run.seed}") for config in configs]

            def failed(trial: Trial, reason: str) -> None:
                failures.append(reason)

            observer = Observer(on_failure=failed, on_stop=failed, on_trouble=failed)
            run_trials(trials, "benchmark", storage, resources, observer)
        if failures:
            raise UserError(f"trial cost: {len(failures)} of {len(trials)} trials failed, one with: {failures[0]}")
        return costs([_finished(Path(storage), config) for config in configs], slots)


def _finished(storage: Path, config: TrainingConfig) -> Finished:
    result = storage / TrialKeys("benchmark", config.trial_id()).result
    return Finished(result.stat().st_mtime, json.loads(result.read_text())["seconds"])


def target(costs: Sequence[float]) -> Target:
    """The target, held against the median."""
    return Target("trial in a warm grid, beyond its training", COST_TARGET, "s", statistics.median(costs))
