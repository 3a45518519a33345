"""What a grid would take on a cluster that is not at hand: hours, cost, storage, and what gives way as it grows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnet_dist.errors import UserError
from tune_jobs.grid import storage_use
from tune_jobs.grid.machines import HERE, Machine, constants, machine
from tune_jobs.grid.packing import Packing
from tune_jobs.grid.plan import Plan, PlannedTrial
from tune_jobs.grid.simulation import Outcome, Times, Work, simulate

MOST_DEVICES = 1_000_000


@dataclass(frozen=True)
class Cluster:
    """What `--on` names."""

    count: int
    """Devices."""
    name: str
    """Of a machine in `machines.toml`, or `here`."""
    machine: Machine | None
    """None for `here`."""
    preemptions_an_hour: float = 0.0
    """Of each device."""

    @classmethod
    def parse(cls, text: str) -> "Cluster":
        """`16xH100`, `16xH100,spot`, `16xH100,spot=0.1`; a `UserError` for anything else."""
        found = re.fullmatch(r"(\d{1,9})x(\w+)(,spot(?:=([\d.]+))?)?", text.replace(" ", ""), re.IGNORECASE)
        if not found:
            raise UserError(
                f"on: {text!r} is not allowed; give a number and a machine, such as 16xH100 or 16xH100,spot"
            )
        count, name, spot, rate = found.groups()
        if not 1 <= int(count) <= MOST_DEVICES:
            raise UserError(f"on: {count} devices are not allowed; give from 1 to {MOST_DEVICES:,}")
        try:
            lost = float(rate) if rate else constants()["spot"]["preemptions_an_hour"] if spot else 0.0
        except ValueError:
            raise UserError(f"on: spot={rate} is no number; give preemptions of a machine an hour") from None
        if name.lower() == HERE:
            return cls(int(count), HERE, None, lost)
        known = machine(name)
        return cls(int(count), known.name, known, lost)


@dataclass(frozen=True)
class Limit:
    """Something that gives way as a cluster grows."""

    name: str
    devices: float
    """Beyond which it does."""
    why: str
    remedy: str
    """What would have to change."""


@dataclass(frozen=True)
class Forecast:
    """What a plan would take on a cluster."""

    cluster: Cluster
    price: float | None
    """Of a device for an hour."""
    steady: Outcome
    """One trial at a time on each device, and none of them taken away."""
    preempted: Outcome | None
    """The same with preemptions; None if there are none."""
    packed: tuple[int, Outcome] | None
    """Trials side by side on a device, as a launch chooses it, and what comes of it, with preemptions if there are any;
    None if each is to have its own."""
    requests: float
    sent: float
    """Bytes to storage."""
    report_seconds: float
    """Of one reading of all trials."""
    limits: tuple[Limit, ...]
    """The first one first."""
    notes: tuple[str, ...]
    """What was taken for want of a measurement."""

    def cost(self, outcome: Outcome) -> float | None:
        """Of the cluster, held until the last trial ends."""
        return None if self.price is None else self.price * self.cluster.count * outcome.seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `grid plan --json` prints them under `on`."""

        def plain(outcome: Outcome) -> dict[str, Any]:
            return {
                "hours": outcome.seconds / 3600,
                "busy_hours": outcome.busy / 3600,
                "preemptions": outcome.preemptions,
                "lost_hours": outcome.lost / 3600,
                "launches": outcome.launches,
                "cost": self.cost(outcome),
            }

        return {
            "devices": self.cluster.count,
            "machine": self.cluster.name,
            "preemptions_an_hour": self.cluster.preemptions_an_hour,
            "price": self.price,
            "steady": plain(self.steady),
            "preempted": self.preempted and plain(self.preempted),
            "packed": self.packed and {"side_by_side": self.packed[0], **plain(self.packed[1])},
            "storage": {"requests": self.requests, "sent": self.sent},
            "report_seconds": self.report_seconds,
            "limits": [
                {"name": limit.name, "devices": limit.devices, "why": limit.why, "remedy": limit.remedy}
                for limit in self.limits
            ],
            "notes": list(self.notes),
        }


def forecast(plan: Plan, cluster: Cluster, price: float | None = None) -> Forecast | None:
    """Reckon what is left of a plan that was made with that machine's step times; None if nothing is left."""
    known = {planned.trial.trial_id: planned for planned in plan.trials}
    waiting = [known[trial.trial_id] for trial in plan.to_run()]
    if not waiting:
        return None
    most = max(planned.trial.config.run.workers for planned in waiting)
    if most > cluster.count:
        raise UserError(f"on: {cluster.count} devices hold no trial of {most} workers; give at least {most}")
    given = constants()
    times = measured_times()
    trials = [_work(planned, cluster) for planned in waiting]
    steady = simulate(trials, cluster.count, times)
    rate = cluster.preemptions_an_hour
    preempted = simulate(trials, cluster.count, times, rate) if rate else None
    asked = [planned.expected_storage for planned in waiting if planned.expected_storage]
    requests, sent = sum(each for each, _ in asked), sum(each for _, each in asked)
    return Forecast(
        cluster,
        price,
        steady,
        preempted,
        _packed(trials, plan.packing, cluster, times),
        requests,
        sent,
        given["report"]["seconds_a_trial"] * len(plan.trials),
        _limits(trials, requests, times, len(plan.trials)),
        tuple(cluster.machine.notes) if cluster.machine else (),
    )


def measured_times() -> Times:
    """What is not training, as it was measured."""
    return Times(**{name: value for name, value in constants()["times"].items() if name != "source"})


def training_seconds(planned: PlannedTrial, cluster: Cluster) -> float:
    """What is left of a trial's training, on its workers together."""
    config = planned.trial.config
    assert planned.hours is not None
    seconds = 3600 * planned.hours / config.run.workers
    if config.run.workers > 1 and cluster.machine is None:
        shares = constants()["workers"]
        seconds *= shares.get(config.run.precision, shares["float32"])
    return seconds


def _work(planned: PlannedTrial, cluster: Cluster) -> Work:
    config, given = planned.trial.config, constants()
    seconds = training_seconds(planned, cluster)
    left = planned.steps - planned.steps_done
    written = storage_use.checkpoints(config.run, seconds, planned.steps)
    epochs = config.run.epochs * left / planned.steps if planned.steps else 0.0
    launcher = given["launcher"]["seconds_a_trial"] + given["launcher"]["seconds_an_epoch"] * epochs
    return Work(seconds, config.run.workers, seconds / written, launcher)


def _packed(trials: Sequence[Work], packing: Packing, cluster: Cluster, times: Times) -> tuple[int, Outcome] | None:
    """What comes of trials that share devices as a launch chooses it, each as slow as it was measured."""
    count, slower = packing.count, packing.count / packing.gain
    if count == 1 or any(trial.workers > 1 for trial in trials):
        return None
    slowed = [
        Work(trial.seconds * slower, 1, trial.checkpoint_seconds * slower, trial.launcher_seconds) for trial in trials
    ]
    return count, simulate(slowed, cluster.count * count, times, cluster.preemptions_an_hour)


def _limits(trials: Sequence[Work], requests: float, times: Times, in_storage: int) -> tuple[Limit, ...]:
    given = constants()
    count = len(trials)
    beyond = [times.trial if trial.workers == 1 else times.group_trial for trial in trials]
    held = [trial.workers * (trial.seconds + more) for trial, more in zip(trials, beyond, strict=True)]
    whole, longest = sum(held), max(trial.seconds for trial in trials)
    launcher, memory, storage = given["launcher"], given["memory"], given["storage"]
    busy = sum(trial.launcher_seconds for trial in trials)
    a_device = whole / count  # seconds that one device takes for one trial
    at_a_time = given["ray"]["trials_at_a_time"]
    taken = memory["launcher_base"] + memory["launcher_a_trial"] * in_storage
    found = [
        Limit(
            "the longest trial",
            whole / longest,
            f"it takes {longest / 3600:.3g} h, however many others run",
            "more workers for it, or more seeds",
        ),
        Limit(
            "the launcher",
            whole / busy,
            f"busy {1000 * busy / count:,.0f} ms with each trial, {1000 * launcher['seconds_a_trial']:.0f} to start it "
            "and the rest with its epochs",
            "report to Ray Tune by time, not by epoch; several launches, an experiment each",
        ),
        Limit(
            "the store",
            storage["requests_a_second"] * a_device / (requests / count) if requests else float("inf"),
            f"{requests / count:,.0f} requests a trial, {storage['requests_a_second']:,} a second on a prefix",
            "a prefix for each part of the trials; fewer events",
        ),
        Limit(
            "Ray",
            at_a_time * max(trial.workers for trial in trials),
            f"tested with {at_a_time:,} placement groups at a time, one of each trial",
            "several Ray clusters on one storage; a trial in an actor without a group",
        ),
    ]
    if taken > memory["head"]:
        found.append(Limit("the head's memory", 0, f"{taken / 1e9:.3g} GB", "launches of fewer trials"))
    return tuple(sorted(found, key=lambda limit: limit.devices))
