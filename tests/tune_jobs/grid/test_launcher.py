"""What the process that launches a grid carries."""

import subprocess
import sys


def test_a_launcher_loads_no_torch() -> None:
    """Half a gigabyte of memory, and seconds before the first trial."""
    code = (
        "import sys; import ray.tune; from tune_jobs.grid import concurrency, run, tune_callback; "
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
