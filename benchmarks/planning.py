"""What it costs to expand a large grid and hold it against an empty storage: `grid plan`, and a launch's dry run."""

import statistics
import tempfile

from benchmarks.process_cost import Cost, cost_of
from benchmarks.targets import Target

SECONDS_TARGET = 1.5
MEMORY_TARGET = 250.0
"""MB."""
COMMANDS = {
    "plan": ("plan", "full-grid", "--seeds", "5", "--no-measure"),
    "dry run": ("run", "full-grid", "--seeds", "5", "--dry-run"),
}
"""3,600 trials each."""


def measure(rounds: int) -> dict[str, list[Cost]]:
    """The commands in turns, each as a process of its own, as a user runs it."""
    costs: dict[str, list[Cost]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="resnet-dist-benchmark-") as storage:
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                costs[name].append(cost_of(["grid", *command, "--storage", storage]))
    return costs


def targets(costs: dict[str, list[Cost]]) -> list[Target]:
    """Time and memory of each command, as medians."""
    found = []
    for name, rounds in costs.items():
        seconds = statistics.median(cost.seconds for cost in rounds)
        memory = statistics.median(cost.megabytes for cost in rounds)
        found.append(Target(f"{name} of 3,600 trials", SECONDS_TARGET, "s", seconds))
        found.append(Target(f"{name} of 3,600 trials, memory", MEMORY_TARGET, "MB", memory))
    return found
