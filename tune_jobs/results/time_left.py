"""An experiment that is looked at again and again: how fast it goes on, and when it will be at its end.

Storage alone is asked, so it may run anywhere. What is finished is read once.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resnet_dist.storage.interface import Storage
from tune_jobs.results.experiment_record import read_record
from tune_jobs.results.trials import TrialResults, read_trials


@dataclass(frozen=True)
class Look:
    """What was there at one moment."""

    trials: Mapping[str, TrialResults]
    """Every trial of the experiment by its id."""
    epochs_done: int
    epochs: int
    """Of all trials that have not given up."""
    epochs_an_hour: float | None
    """How many have ended since the watch or the first trial began, by the time since; None before the first has."""
    seconds_left: float | None
    """Until all is done, as fast as it went since then; None while nothing is known of it."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        return not any(trial.state in ("unfinished", "missing") for trial in self.trials.values())


class Watch:
    """Looks at an experiment; `clock` gives seconds."""

    def __init__(self, storage: Storage, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.storage = storage
        self.name = name
        self.clock = clock
        self.finished: dict[str, TrialResults] = {}
        self.first: tuple[float, int, float] | None = None
        """Time, epochs and work done at the first look."""

    def look(self) -> Look:
        """Read what is there now. Raises what `read_experiment` raises."""
        asked = read_record(self.storage, self.name)["trials"]
        others = {trial_id: trial for trial_id, trial in asked.items() if trial_id not in self.finished}
        now = read_trials(self.storage, self.name, others, details=False)[0] | self.finished
        self.finished = {trial_id: trial for trial_id, trial in now.items() if trial.state == "finished"}
        trials = {trial_id: now[trial_id] for trial_id in asked}
        going = [trial for trial in trials.values() if trial.state in ("finished", "unfinished", "missing")]
        done = sum(trial.epochs_done for trial in going)
        cost = _seconds_a_layer(going)
        work, left = (
            sum(epochs * cost * trial.config["network"]["depth"] for trial, epochs in counted) if cost else 0.0
            for counted in (
                [(trial, trial.epochs_done) for trial in going],
                [(trial, trial.epochs - trial.epochs_done) for trial in going],
            )
        )
        at = self.clock()
        begun = any(trial.state != "missing" for trial in trials.values())  # before that, Ray starts
        if self.first is None or not begun or self.first[1] > done:  # or trials were removed
            self.first = at, done, work
        began, before, work_before = self.first
        since, gained = at - began, work - work_before
        rate = 3600 * (done - before) / since if done > before and since > 0 else None
        remaining = None
        if rate and gained > 0:
            remaining = left * since / gained
        elif cost:
            remaining = left / max(1, sum(trial.state == "unfinished" for trial in going))
        return Look(trials, done, sum(trial.epochs for trial in going), rate, remaining)


def seconds_an_epoch(trial: TrialResults) -> float | None:
    """How long an epoch of the trial takes; None before its first."""
    if trial.metrics:
        return statistics.fmean(line["seconds"] for line in trial.metrics[-3:])
    return float(trial.result["seconds"]) / trial.epochs_done if trial.result and trial.epochs_done else None


def _seconds_a_layer(trials: list[TrialResults]) -> float | None:
    """Of an epoch, the mean over trials: what a trial that has not begun will take is judged by its depth."""
    known = [seconds / trial.config["network"]["depth"] for trial in trials if (seconds := seconds_an_epoch(trial))]
    return statistics.fmean(known) if known else None
