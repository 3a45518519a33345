"""What a command of the program takes, as a process of its own: time, and the most memory."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_dist.errors import UserError

# Of the process itself: what the system tells its parent of a child's memory begins with the parent's.
RUN = """
import sys
from tune_jobs.command_line import main
code = main(sys.argv[1:])
from benchmarks.process_cost import peak_megabytes
print(peak_megabytes(), file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    megabytes: float
    """Peak of its resident memory."""


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command of the program. Raises a `UserError` if it fails."""
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", RUN, *command], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if run.returncode:
        raise UserError(f"{' '.join(command)} failed: {run.stderr.strip()}")
    return Cost(seconds, float(run.stderr.splitlines()[-1]))


def peak_megabytes() -> float:
    """The most resident memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024 / 1e6
