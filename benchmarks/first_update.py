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

from benchmarks.targets import Target
from resnet_dist.errors import UserError
from tune_jobs.commands.options import Parser, positive

SECONDS_TARGET = 2.5
MEMORY_TARGET = 1200.0
"""MB."""
# The first process ends at its first update; the second one's epoch is cut off after forty.
RUN = """
import json, os, sys, time
started, stop = float(sys.argv[1]), int(sys.argv[2])
from tune_jobs.command_line import main
from resnet_dist import launch
inner = launch.run_in_process

def run_in_process(job, **observers):
    from resnet_dist.training.state import Training
    updates = Training.update
    def update(training):
        loss = updates(training)
        if training.step == stop == 1:
            print(json.dumps([time.time() - started, time.process_time()]), flush=True)
            os._exit(0)
        return loss
    Training.update = update
    return inner(job, **observers)

launch.run_in_process = run_in_process
code = main(sys.argv[3:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([int(peak) * 1024 / 1e6]))
sys.exit(code)
"""


@dataclass(frozen=True)
class FirstUpdate:
    """What it took to get there."""

    seconds: float
    processor: float
    """Seconds of processor time, of all threads."""


def first_updates(settings: list[str], rounds: int) -> list[FirstUpdate]:
    """Launch as often; the first time, which fills the caches, does not count."""
    return [FirstUpdate(*_run(1, settings)) for _ in range(rounds + 1)][1:]


def peak_memory(settings: list[str]) -> float:
    """MB of resident memory that a trial of an epoch takes at its most."""
    (peak,) = _run(0, [*settings, "--epochs", "1", "--data.train_limit", "5120", "--schedule.milestones", ""])
    return peak


def _run(stop: int, settings: list[str]) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage:
        command = [sys.executable, "-c", RUN, str(time.time()), str(stop), "train", "--storage", storage, "--json"]
        run = subprocess.run([*command, *settings], capture_output=True, text=True)
    if run.returncode:
        raise UserError(f"train failed: {run.stderr.strip()}")
    values: list[float] = json.loads(run.stdout.strip().splitlines()[-1])
    return values


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
    for target in targets(times, peak_memory(settings)):
        print(target.line(30))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
