"""What the launcher takes of a trial as a grid grows: many trials, each of which ends as soon as it begins.

    python -m benchmarks.launcher [--trials 3600] [--slots 64] [--reports 1]

A grid on a local Ray that is told it has so many CPUs, through Tune as any grid, with a stub for training. The figure
is the time from one trial's start to the next one's, over the last hundred beside the first hundred once every slot
has had its process.
"""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import exit_with
from benchmarks.process_cost import peak_megabytes
from benchmarks.targets import Target, print_lines
from tune_jobs.commands.options import Parser, positive

GROWTH_TARGET = 1.3
MEMORY_TARGET = 1000.0
"""MB."""
WINDOW = 100


@dataclass(frozen=True)
class Launches:
    """What a grid of stubs took."""

    starts: list[float]
    """When each trial started, in seconds, the first ones first."""
    megabytes: float
    """Most resident memory of the driver."""

    def pace(self, first: int) -> float:
        """Seconds of a trial, over a window that begins with this one."""
        part = self.starts[first : first + WINDOW + 1]
        return (part[-1] - part[0]) / (len(part) - 1)

    def growth(self, slots: int) -> float:
        """How many times as long a trial takes at the end as at the beginning."""
        return self.pace(len(self.starts) - WINDOW - 1) / self.pace(slots)


def stub(reports: int, slots: int, started: str) -> Callable[..., None]:
    """What stands for `tune_jobs.grid.run._train_trial`: it reports so often, as a trial does after each epoch.

    The first one in each process waits until all slots have theirs: to a trial that waits, Tune gives a process that
    is free and ends the one that starts for it, so that trials of no length would have it start one after another.
    """

    def train(
        config: dict[str, Any], jobs: dict[str, Any], ray_storage: dict[str, Any], use_gpu: bool, processes: Any = None
    ) -> None:
        from ray import tune

        assert jobs[config["trial_id"]]
        mine = Path(started, str(os.getpid()))
        if not mine.exists():
            mine.touch()
            while sum(1 for _ in Path(started).iterdir()) < slots:
                time.sleep(0.5)
        for _ in range(reports):
            tune.report({"finished": True})

    return train


def measure(trials: int, slots: int, reports: int = 1) -> Launches:
    """Run a grid of so many stubs in this process."""
    import ray

    from benchmarks.trial_overhead import tiny_trials
    from cluster.ray_cluster.connection import connected
    from tune_jobs.grid import run
    from tune_jobs.grid.experiment import Trial
    from tune_jobs.grid.observer import Observer

    starts: list[float] = []
    failures: list[str] = []
    os.environ.pop("RAY_ADDRESS", None)
    ray.init = functools.partial(ray.init, num_cpus=slots)
    observer = Observer(
        on_start=lambda trial: starts.append(time.perf_counter()),
        on_failure=lambda trial, reason: failures.append(reason),
    )
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage, connected() as resources:
        started = Path(storage, "started")
        started.mkdir()
        run._train_trial = stub(reports, min(slots, trials), str(started))
        planned = [Trial(config, f"seed-{config.run.seed}") for config in tiny_trials(trials)]
        run.run_trials(planned, "benchmark", storage, resources, observer)
    assert not failures, failures[0]
    assert len(starts) == trials
    return Launches(starts, peak_megabytes())


def targets(launches: Launches, slots: int) -> list[Target]:
    """What is to be reached."""
    count = f"{len(launches.starts):,}"
    return [
        Target(f"launcher's time a trial, from 100 to {count}", GROWTH_TARGET, "× time", launches.growth(slots)),
        Target(f"driver's memory, {count} trials", MEMORY_TARGET, "MB", launches.megabytes),
    ]


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m benchmarks.launcher", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=positive, default=3600, help="trials of the grid (default: 3600)")
    parser.add_argument("--slots", type=positive, default=64, help="trials at a time (default: 64)")
    parser.add_argument("--reports", type=positive, default=1, help="reports of each trial to Tune (default: 1)")
    args = parser.parse_args(arguments)
    launches = measure(args.trials, args.slots, args.reports)
    for first in range(args.slots, args.trials - WINDOW, max(WINDOW, args.trials // 8)):
        print(f"trials {first:>5} to {first + WINDOW:>5}: {1e3 * launches.pace(first):.0f} ms each")
    gaps = [b - a for a, b in zip(launches.starts, launches.starts[1:], strict=False)]
    print(f"median {1e3 * statistics.median(gaps):.0f} ms, all in {launches.starts[-1] - launches.starts[0]:.0f} s")
    return print_lines(targets(launches, args.slots))


if __name__ == "__main__":
    exit_with(main)
