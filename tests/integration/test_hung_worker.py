"""A worker that is stopped, and one that dies: each is one line, and the trial ends with the numbers of a quiet one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.processes import Process, of_session, start_time
from tune_jobs.command_line import main

pytestmark = pytest.mark.integration

RUN = """
[data]
source = "synthetic"
train_limit = 80
test_limit = 8
batch_size = 8
[network]
depth = 8
width = 4
[schedule]
milestones = []
[run]
epochs = 80
checkpoint_epochs = 1
device = "cpu"
exact = true
virtual_shards = 2
"""
STEPS = 10
"""Of an epoch, at whose end is a checkpoint."""
SECONDS = 5
"""After which a worker is held to be hung."""


def test_a_stopped_worker_is_ended_a_dead_one_is_named_and_neither_changes_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, log = tmp_path / "run.toml", tmp_path / "log"
    config.write_text(RUN)
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    command = [sys.executable, "-m", "tune_jobs", "train", "--config", str(config), "--storage", str(disturbed)]
    variables = {"RESNET_DIST_HANG_SECONDS": str(SECONDS), "RESNET_DIST_SPOOL": str(tmp_path / "spool")}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, "--workers", "2"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
            start_new_session=True,
        ) as process,
    ):
        leader = Process(process.pid, start_time(process.pid) or 0)
        try:

            def until(condition: Callable[[], object]) -> None:
                while not condition():
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.05)

            def epochs() -> int:
                return len(re.findall("^epoch ", log.read_text(), re.MULTILINE))

            def one_worker() -> int:
                found = processes_of(leader)
                return next(pid for pid, words in found.items() if "TrainWorker" in words)

            until(lambda: epochs() >= 2)
            stopped = one_worker()
            os.kill(stopped, signal.SIGSTOP)
            until(lambda: "goes on from step" in log.read_text())
            assert stopped not in processes_of(leader), "it would wake up and write"
            before = epochs()
            until(lambda: epochs() > before)
            killed = one_worker()
            os.kill(killed, signal.SIGKILL)
            until(lambda: "died" in log.read_text())
            assert process.wait() == 0, log.read_text()
        finally:
            for pid in processes_of(leader):
                os.kill(pid, signal.SIGKILL)
    said = log.read_text()
    hung, on, dead = [line for line in said.splitlines() if re.search("is ended|goes on from", line)]
    assert re.search(
        rf"worker . of 2 \(process {stopped} on .*\) has given no sign of life for \d+ s and is ended; ", hung
    )
    assert re.search(r"^8-layers/\S+: goes on from step \d+$", on)
    # Ray may end the other worker before it can say that it has lost this one.
    assert re.search(rf"worker . of 2 \(process {killed} on \S+\) died; ", dead)
    assert re.search(r"; the trial goes on from step \d+$", dead)
    steps = [int(line.rpartition(" ")[2]) for line in (on, dead)]
    assert 2 * STEPS <= steps[0] <= steps[1], "epochs that were over are trained again"
    assert [step % STEPS for step in steps] == [0, 0], "there is no checkpoint of that step"
    assert "raylet" not in said and "Traceback" not in said

    assert main([*command[3:-1], str(quiet)]) == 0
    for name in ("metrics.jsonl", "model.pt"):
        (ours,), (theirs,) = (list(root.glob(f"train/trials/*/{name}")) for root in (disturbed, quiet))
        assert numbers(ours) == numbers(theirs)


def processes_of(leader: Process) -> dict[int, str]:
    """The processes of a session and their commands, by number."""
    found = {}
    for process in of_session(leader):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[process.pid] = Path(f"/proc/{process.pid}/cmdline").read_text()
    return found


def numbers(file: Path) -> object:
    """Weights, or lines without what is measured: times."""
    if file.suffix == ".pt":
        weights = torch.load(file, weights_only=True)["network"]
        return {name: weight.numpy().tobytes() for name, weight in weights.items()}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]
