"""What it costs to expand a large grid and hold it against an empty storage: `grid plan`, and a launch's dry run."""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from benchmarks.targets import Target
from resnet_dist.errors import UserError

SECONDS_TARGET = 1.5
MEMORY_TARGET = 250.0
"""MB."""
COMMANDS = {
    "plan": ("plan", "full-grid", "--seeds", "5", "--no-measure"),
    "dry run": ("run", "full-grid", "--seeds", "5", "--dry-run"),
}
"""3,600 trials each."""
# Of the process itself: what the system tells its parent of a child's memory begins with the parent's.
RUN = """
import sys
from tune_jobs.command_line import main
code = main(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak, file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    megabytes: float
    """Peak of its resident memory."""


def measure(rounds: int) -> dict[str, list[Cost]]:
    """The commands in turns, each as a process of its own, as a user runs it."""
    costs: dict[str, list[Cost]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage:
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                costs[name].append(_cost(["grid", *command, "--storage", storage]))
    return costs


def _cost(command: list[str]) -> Cost:
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", RUN, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seconds = time.perf_counter() - start
    if run.returncode:
        raise UserError(f"{' '.join(command)} failed: {run.stderr.decode(errors='replace').strip()}")
    return Cost(seconds, int(run.stderr) * 1024 / 1e6)


def targets(costs: dict[str, list[Cost]]) -> list[Target]:
    """Time and memory of each command, as medians."""
    found = []
    for name, rounds in costs.items():
        seconds = statistics.median(cost.seconds for cost in rounds)
        memory = statistics.median(cost.megabytes for cost in rounds)
        found.append(Target(f"{name} of 3,600 trials", SECONDS_TARGET, "s", seconds))
        found.append(Target(f"{name} of 3,600 trials, memory", MEMORY_TARGET, "MB", memory))
    return found
