"""What passes from `resnet-dist train` to its first update, and the most memory that a one-worker trial takes.

    python -m benchmarks.first_update [--data.source folder:cifar10.tar.xz] [--rounds 5] [any setting of `train`]

Processes of their own, as a user starts them, with records in a directory and the images in the cache: one that ends
at its first update, and one that trains for 40 and then through the test of an epoch.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from benchmarks.command import exit_with
from benchmarks.process_cost import cost_of
from benchmarks.targets import Target, print_lines
from resnet_dist.errors import UserError
from tune_jobs.commands.options import Parser, positive

SECONDS_TARGET = 2.5
MEMORY_TARGET = 1200.0
"""MB."""
# Ends at the first update.
RUN = """
import json, os, sys, time
started = float(sys.argv[1])
from tune_jobs.command_line import main
from resnet_dist import launch
inner = launch.run_in_process
def run_in_process(job, **observers):
    from resnet_dist.training.state import Training
    first = Training.update
    def update(training):
        first(training)
        print(json.dumps([time.time() - started, time.process_time()]), flush=True)
        os._exit(0)
    Training.update = update
    return inner(job, **observers)
launch.run_in_process = run_in_process
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class FirstUpdate:
    """What it took to get there."""

    seconds: float
    processor: float
    """Seconds of processor time, of all threads."""


def first_updates(settings: list[str], rounds: int) -> list[FirstUpdate]:
    """Launch as often; the first time, which fills the caches, does not count."""
    return [_first_update(settings) for _ in range(rounds + 1)][1:]


def _first_update(settings: list[str]) -> FirstUpdate:
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage:
        command = [sys.executable, "-c", RUN, str(time.time()), "train", "--storage", storage, "--json"]
        run = subprocess.run([*command, *settings], capture_output=True, text=True)
    if run.returncode:
        raise UserError(f"train failed: {run.stderr.strip()}")
    return FirstUpdate(*json.loads(run.stdout.strip().splitlines()[-1]))


def peak_memory(settings: list[str]) -> float:
    """MB of resident memory that a trial of an epoch, cut off after forty updates, takes at its most."""
    short = ["--epochs", "1", "--data.train_limit", "5120", "--schedule.milestones", ""]
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage:
        return cost_of(["train", "--storage", storage, *settings, *short]).megabytes


def targets(times: list[FirstUpdate], memory: float) -> list[Target]:
    """What is to be reached."""
    seconds = statistics.median(taken.seconds for taken in times)
    return [
        Target("first update after launch", SECONDS_TARGET, "s", seconds),
        Target("one-worker trial, memory", MEMORY_TARGET, "MB", memory),
    ]


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m benchmarks.first_update", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=positive, default=5, help="launches that are timed (default: 5)")
    args, settings = parser.parse_known_args(arguments)
    times = first_updates(settings, args.rounds)
    print(f"first update: {statistics.median(taken.processor for taken in times):.2f} s of a processor")
    return print_lines(targets(times, peak_memory(settings)))


if __name__ == "__main__":
    exit_with(main)
