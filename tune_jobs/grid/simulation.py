"""How long a grid occupies a cluster: its launches simulated, with what starts, what waits and what is taken away."""

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tune_jobs.grid.run import RETRIES

SEED = 0
"""Of the preemptions that are drawn."""


@dataclass(frozen=True)
class Work:
    """A trial as its cluster sees it."""

    seconds: float
    """Of training, on its workers together."""
    workers: int = 1
    checkpoint_seconds: float = 0.0
    """Between two checkpoints; what an interruption loses at most."""
    launcher_seconds: float = 0.0
    """That the launcher is busy with it, and with no other trial."""


@dataclass(frozen=True)
class Times:
    """What is not training, in seconds."""

    ray: float = 0.0
    """Until Ray and the launcher are there."""
    process: float = 0.0
    """Of a place's process, before its first trial."""
    group: float = 0.0
    """Of a group of workers, before its first trial."""
    trial: float = 0.0
    """Of each trial of one worker beyond its training, in a process that is there."""
    group_trial: float = 0.0
    """The same of each trial of a group."""
    replacement: float = 0.0
    """Until another machine stands in for one that was taken away."""


@dataclass(frozen=True)
class Outcome:
    """What became of a grid."""

    seconds: float
    """Until the last trial has ended."""
    busy: float
    """Worker-seconds in which places were in use."""
    preemptions: int
    """Trials that lost their machine."""
    lost: float
    """Worker-seconds of training that they did twice."""
    launches: int
    """How often the command was given: a trial that loses its machine too often waits for the next."""


def simulate(trials: Sequence[Work], places: int, times: Times, preemptions_an_hour: float = 0.0) -> Outcome:
    """Run trials in their order on so many places, those of each number of workers by themselves, as a launch does.

    preemptions_an_hour: how often each place loses its machine, by itself; drawn with `SEED`.
    """
    draws = random.Random(SEED)
    clock, done, launches = times.ray, Outcome(0.0, 0.0, 0, 0.0, 1), 1
    waiting = list(trials)
    while waiting:
        killed: list[Work] = []
        for workers in sorted({trial.workers for trial in waiting}):
            group = [trial for trial in waiting if trial.workers == workers]
            clock, done, failed = _launch(group, places // workers, times, preemptions_an_hour, draws, clock, done)
            killed += failed
        waiting = killed
        if waiting:
            clock, launches = clock + times.ray, launches + 1
    return replace(done, seconds=clock, launches=launches)


def _launch(
    trials: Sequence[Work],
    places: int,
    times: Times,
    rate: float,
    draws: random.Random,
    begin: float,
    done: Outcome,
) -> tuple[float, Outcome, list[Work]]:
    """Returns when the last one ends, what has become of all so far, and the trials that lost their machine too often.

    Of each of these what is left of it.
    """
    assert places > 0
    workers = trials[0].workers
    start, beyond = (times.process, times.trial) if workers == 1 else (times.group, times.group_trial)
    free = [(begin, start)] * min(places, len(trials))  # when each place is free, and what its next trial takes first
    waiting = deque((trial, 0) for trial in trials)  # with how often it has lost its machine
    failed, launcher, end = [], begin, begin
    while waiting:
        trial, losses = waiting.popleft()
        at, first = free[0]
        at = launcher = max(at, launcher) + trial.launcher_seconds
        whole = first + beyond + trial.seconds
        until = draws.expovariate(rate * workers / 3600) if rate else whole
        if until >= whole:
            heapq.heapreplace(free, (at + whole, 0.0))
            end = max(end, at + whole)
            done = replace(done, busy=done.busy + workers * whole)
            continue
        trained = max(0.0, until - first - beyond)
        kept = trained - trained % trial.checkpoint_seconds if trial.checkpoint_seconds else 0.0
        again = at + until + times.replacement
        heapq.heapreplace(free, (again, start))
        left = replace(trial, seconds=trial.seconds - kept)
        end = max(end, at + until)
        if losses < RETRIES:
            waiting.appendleft((left, losses + 1))
        else:
            failed.append(left)
        done = replace(
            done,
            busy=done.busy + workers * until,
            preemptions=done.preemptions + 1,
            lost=done.lost + workers * (trained - kept),
        )
    return end, done, failed
