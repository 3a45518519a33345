"""Processes are told apart by number and start time, and a session's are ended with all that descend from them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.processes import Process, end, of_session, start_time

# A leader, a child of its, and a grandchild in a session of its own, as jobs of Ray have.
FAMILY = """
import subprocess, sys, time
child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], "
child += "start_new_session=True); print('ready', flush=True); time.sleep(99)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(99)
"""


def test_a_session_ends_with_its_descendants_and_nothing_else_does() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as leader:
        assert leader.stdout and leader.stdout.readline() == "ready\n"
        head = Process(leader.pid, start_time(leader.pid) or 0)
        family = of_session(head)
        assert len(family) == 3 and head in family
        end(family)
        assert not any(process.is_alive for process in family)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_number_that_was_given_away_again_is_another_process() -> None:
    mine = start_time(os.getpid())
    assert mine and Process(os.getpid(), mine).is_alive
    assert not Process(os.getpid(), mine - 1).is_alive
    assert of_session(Process(os.getsid(0), 1)) == [] or not Path(f"/proc/{os.getsid(0)}").exists()


def test_a_process_that_ignores_the_request_to_end_is_killed() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as stubborn:
        assert stubborn.stdout and stubborn.stdout.readline() == "ready\n"
        began = time.monotonic()
        end([Process(stubborn.pid, start_time(stubborn.pid) or 0)], patience=0.3)
        assert time.monotonic() - began >= 0.3
        assert stubborn.wait() == -9


def test_a_process_that_ends_by_itself_meanwhile_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    # It was seen alive a moment ago.
    seen = iter([True, False])
    monkeypatch.setattr(Process, "is_alive", property(lambda _: next(seen)))
    end([Process(gone.pid, 1)])
    assert next(seen, None) is None
