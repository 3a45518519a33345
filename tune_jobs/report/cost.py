"""What an experiment took: hours, images and energy, as far as its trials have recorded them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tune_jobs.results.trials import ExperimentResults, TrialResults

SLOWEST = 5

MEANING = (
    "Hours are those of training as each trial recorded them, epoch by epoch, also of trials that have not finished; "
    "evaluation, start-up and epochs that an interruption undid are not in them. Worker-hours count every worker of a "
    "trial. A trial that stands in several tables counts in each, and once in the sum."
)
ENERGY = (
    "Energy is what the workers' GPUs took while they trained, by their own counters (NVML's total energy). "
    "Processors, memory and cooling are not in it."
)
NO_ENERGY = (
    "Energy: not recorded by every trial. One on CUDA devices records it (energy_joules in its result.json, by NVML's "
    "total energy counter) where the package nvidia-ml-py is installed; on a CPU it is unknown, since the counter of a "
    "machine cannot be divided among the trials on it."
)


@dataclass(frozen=True)
class Cost:
    """What a group of trials took."""

    label: str
    trials: int
    """Trials that have recorded any epoch."""
    hours: float
    worker_hours: float
    images: float
    """Training images seen, repetitions counted."""
    kilowatt_hours: float | None
    """None unless every one of the trials recorded it."""

    @property
    def images_per_second(self) -> float | None:
        """Mean throughput of a trial, over all its workers."""
        return self.images / (3600 * self.hours) if self.hours else None


@dataclass(frozen=True)
class ExperimentCost:
    """The cost of each table and of the whole experiment, and what stands out."""

    tables: tuple[Cost, ...]
    total: Cost
    slowest: tuple[TrialResults, ...]
    """Finished trials that took longest."""
    failures: tuple[TrialResults, ...]
    """Trials that failed, or whose records cannot be used."""


def experiment_cost(results: ExperimentResults) -> ExperimentCost | None:
    """What an experiment has taken so far; None while no trial has recorded anything and none has failed."""
    trials = results.trials.values()
    failures = tuple(trial for trial in trials if trial.state in ("failed", "corrupt"))
    begun = [trial for trial in trials if trial_seconds(trial)]
    if not begun and not failures:
        return None
    tables = []
    for table in results.record["tables"]:
        members = {trial_id: results.trials[trial_id] for cell in table["cells"] for trial_id in cell["trials"]}
        tables.append(_cost(str(table["title"]), members.values()))
    finished = [trial for trial in begun if trial.state == "finished"]
    slowest = sorted(finished, key=lambda trial: -trial_seconds(trial))[:SLOWEST]
    return ExperimentCost(tuple(tables), _cost("All trials", trials), tuple(slowest), failures)


def _cost(label: str, trials: Iterable[TrialResults]) -> Cost:
    begun = [trial for trial in trials if trial_seconds(trial)]
    joules = [trial_joules(trial) for trial in begun]
    known = [energy for energy in joules if energy is not None]
    return Cost(
        label=label,
        trials=len(begun),
        hours=math.fsum(map(trial_seconds, begun)) / 3600,
        worker_hours=math.fsum(trial_seconds(trial) * workers(trial) for trial in begun) / 3600,
        images=math.fsum(map(_images, begun)),
        kilowatt_hours=math.fsum(known) / 3.6e6 if known and len(known) == len(begun) else None,
    )


def workers(trial: TrialResults) -> int:
    """Workers of a trial's last attempt."""
    return int(trial.result.get("workers") or trial.provenance.get("workers") or trial.config["run"]["workers"])


def trial_seconds(trial: TrialResults) -> float:
    """Seconds that a trial has trained, as far as it has recorded epochs."""
    if trial.result.get("seconds") is not None:
        return float(trial.result["seconds"])
    return math.fsum(float(row.get("seconds") or 0) for row in trial.metrics)


def trial_joules(trial: TrialResults) -> float | None:
    """Joules that a trial's GPUs took for the same epochs; None unless they are known of each."""
    records = [trial.result] if trial.result else trial.metrics
    joules = [record.get("energy_joules") for record in records]
    known = [float(energy) for energy in joules if energy is not None]
    return math.fsum(known) if known and len(known) == len(joules) else None


def about_energy(cost: Cost) -> str:
    """What the numbers of the energy column are, or why there are none."""
    return NO_ENERGY if cost.kilowatt_hours is None else ENERGY


def _images(trial: TrialResults) -> float:
    data = trial.config["data"]
    if data["sampling"] == "replacement":
        steps = trial.result.get("steps") or (trial.metrics[-1].get("step") if trial.metrics else 0)
        return float(steps or 0) * float(data["batch_size"])
    # The last batch of a permutation is smaller by an amount that is not recorded; throughput times time has it.
    return math.fsum(float(row.get("seconds") or 0) * float(row.get("images_per_second") or 0) for row in trial.metrics)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
