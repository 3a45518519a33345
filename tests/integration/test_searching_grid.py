"""A search on a real local Ray stops trials early and says so; a later launch brings them to their end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_grid import HEAD, run, start
from tests.killed_runs import epochs_kept, require_kept

pytestmark = pytest.mark.integration

CELLS = """
[table.grid]
"solver.learning_rate" = [0.1, 0.05, 1e-6, 2e-6]
"""

TWO_WORKERS = """
[[table.cell]]
label = "Two workers"
set = { "run.workers" = 2 }
"""


def test_asha_stops_trials_early_and_fifo_takes_them_up(tmp_path: Path) -> None:
    experiment, storage = tmp_path / "small.toml", tmp_path / "results"
    head = HEAD.replace("batch_size = 40", "batch_size = 20") % {"epochs": 6}
    experiment.write_text(head + CELLS)
    search = run(experiment, storage, "--scheduler", "asha")
    states = [trial["state"] for trial in search["trials"]]
    assert set(states) == {"finished", "early-stopped"}
    for trial in search["trials"]:
        folder = storage / "small" / "trials" / trial["trial"]
        if trial["state"] == "finished":
            assert json.loads((folder / "result.json").read_text())["scheduler"] == "asha"
        else:
            assert "stopped by asha after epoch" in trial["reason"]
            assert not (folder / "result.json").exists()
            assert trial["epochs_done"] < 6
    assert "A search, not a table" in (storage / "small" / "report" / "report.md").read_text()
    assert run(experiment, storage, "--scheduler", "asha")["started"] == 0

    half_done = epochs_kept(storage / "small")
    assert sorted(map(len, half_done.values())) == sorted(
        trial["epochs_done"] for trial in search["trials"] if trial["state"] == "early-stopped"
    )
    complete = run(experiment, storage)
    require_kept(half_done)
    assert complete["started"] == states.count("early-stopped")
    assert [trial["state"] for trial in complete["trials"]] == ["finished"] * 4
    assert "A search, not a table" not in (storage / "small" / "report" / "report.md").read_text()


def session_of(process: subprocess.Popen[str]) -> list[str]:
    """Commands of the processes that live in the session that a process leads."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == process.pid and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_text())
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    return found


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.1)


def test_ctrl_c_ends_a_grid_in_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    experiment, storage = tmp_path / "small.toml", tmp_path / "results"
    experiment.write_text(HEAD % {"epochs": 1000} + TWO_WORKERS)
    process = start(experiment, storage)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any("starting 2 workers" in line for line in lines)
    until(lambda: list(storage.glob("small/trials/*/metrics.jsonl")))
    assert len(session_of(process)) > 3
    os.killpg(process.pid, signal.SIGINT)  # what a terminal sends to its foreground process group
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "interrupted; the same command goes on from the last checkpoint\n"
    until(lambda: not session_of(process))
