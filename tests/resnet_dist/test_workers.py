"""How the processes of a run's workers share a machine."""

import os
import subprocess
import sys

import pytest

THREADS = """
import os, threading
from pathlib import Path
from resnet_dist.workers import take_turns
end = threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range(2)]
threads[0].start()
take_turns()
threads[1].start()
print(*{os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()})
end.set()
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="scheduling policies are Linux's")
def test_threads_that_run_and_threads_made_later_take_turns() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(os.SCHED_BATCH)]
