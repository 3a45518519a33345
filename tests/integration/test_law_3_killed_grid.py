"""Law 3 on a real local Ray: a grid whose driver is killed at random moments, twice, ends as if it had not been."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from cluster.processes import Process, of_session, start_time
from cluster.storage.opening import open_storage
from tests.integration.test_grid import EXPERIMENT, NO_RELU, run, start
from tests.killed_runs import epochs_kept, points, require_kept

EPOCHS = 8


def kill_at_random(experiment: Path, storage: Path, lines: int, results: int) -> None:
    """Launch the grid, and kill its driver at some moment after so many epochs and results in all are on record.

    Returns once its workers have noticed: until then they may finish a trial.
    """
    killed = start(experiment, storage)
    trials = storage / "small" / "trials"
    while (
        sum(len(path.read_text().splitlines()) for path in trials.glob("*/metrics.jsonl")) < lines
        or len(list(trials.glob("*/result.json"))) < results
    ):
        assert killed.poll() is None, "the grid ended before it could be killed"
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))
    processes = of_session(Process(killed.pid, start_time(killed.pid) or 0))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    while any(process.is_alive for process in processes):
        time.sleep(0.02)


def finished_files(storage: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of every file of the trials that have a result."""
    folders = [path.parent for path in storage.glob("small/trials/*/result.json")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    # Checkpoints left behind by a kill just after the result are no records.
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files if "checkpoints" not in file.parts}


@pytest.mark.integration
def test_a_grid_killed_twice_finishes_every_trial_once_and_touches_none_that_is_finished(tmp_path: Path) -> None:
    experiment, storage = tmp_path / "small.toml", tmp_path / "results"
    text = (EXPERIMENT + NO_RELU).replace('"run.workers" = 2', '"solver.learning_rate" = 0.05')
    experiment.write_text(text % {"epochs": EPOCHS})
    finished: dict[Path, tuple[bytes, int]] = {}
    half_done: dict[Path, list[str]] = {}
    for results, lines in enumerate((random.randint(4, EPOCHS), random.randint(EPOCHS + 1, 2 * EPOCHS))):
        kill_at_random(experiment, storage, lines, results)
        now = finished_files(storage)
        assert finished.items() <= now.items(), "a launch touched a finished trial"
        finished = now
        half_done |= epochs_kept(storage / "small")
    assert finished, "there is none to be touched"
    assert half_done, "there is none to go on from a checkpoint"

    summary = run(experiment, storage)
    done_before = {file.parent.name for file in finished if file.name == "result.json"}
    assert summary["started"] == 3 - len(done_before)
    assert [trial["state"] for trial in summary["trials"]] == ["finished"] * 3
    now = finished_files(storage)
    assert finished.items() <= now.items(), "a launch touched a finished trial"
    require_kept(half_done)
    resumed = 0
    for trial in summary["trials"]:
        folder = storage / "small" / "trials" / trial["trial"]
        epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert epochs == list(range(1, EPOCHS + 1))
        resumed += json.loads((folder / "result.json").read_text())["attempts"] > 1
    assert resumed, "no trial was interrupted"
    assert points(open_storage(str(storage)), "small")  # none is there twice
