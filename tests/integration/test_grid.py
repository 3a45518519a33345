"""A small grid on a real local Ray: it ends in a report, and runs nothing twice. (Killed ones: law 3's test.)"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.opening import open_storage
from tests.stored_records import faults_of_experiment
from tune_jobs.command_line import main

pytestmark = pytest.mark.integration

HEAD = """
name = "small"
title = "A small grid"

[recipe]
data = { source = "synthetic", train_limit = 400, test_limit = 100, batch_size = 40 }
network = { depth = 8, width = 4 }
schedule = { milestones = [] }
run = { epochs = %(epochs)d, device = "cpu", checkpoint_epochs = 1 }

[[table]]
name = "architecture"
title = "Architecture"
"""
EXPERIMENT = (
    HEAD
    + """
[[table.cell]]
label = "ReLU"

[[table.cell]]
label = "Two workers"
set = { "network.batch_norm_position" = "after", "run.workers" = 2 }
"""
)
NO_RELU = """
[[table.cell]]
label = "No ReLU"
set = { "network.relu_after_addition" = false }
"""
DIVERGES = NO_RELU.replace(" }", ', "solver.learning_rate" = 1e30 }')


def start(experiment: Path, storage: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command as a process, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", "grid", "run", str(experiment), "--storage", str(storage), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(experiment: Path, storage: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What the command says at its end, run in this process."""
    return said("grid", "run", str(experiment), "--storage", str(storage), *arguments, code=code)


def said(*arguments: str, code: int = 0) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*arguments, "--json"]) == code
    return dict(json.loads(out.getvalue()))


def stamps(storage: Path) -> dict[str, int]:
    trials = storage / "small" / "trials"
    return {str(file.relative_to(storage)): file.stat().st_mtime_ns for file in trials.rglob("*") if file.is_file()}


@pytest.mark.filterwarnings("default")  # Ray warns of itself
def test_a_grid_ends_in_a_report_starts_nothing_again_and_is_reproduced_on_two_workers(
    tmp_path: Path,
) -> None:
    experiment, storage = tmp_path / "small.toml", tmp_path / "results"
    experiment.write_text((EXPERIMENT + DIVERGES) % {"epochs": 2})
    first = run(experiment, storage, code=1)
    assert first["started"] == 3
    (diverged,) = [trial for trial in first["trials"] if trial["state"] == "failed"]
    assert "the training loss is" in diverged["reason"]
    others = [trial for trial in first["trials"] if trial["state"] == "finished"]
    assert len(others) == 2, "one that diverges stops no other"
    for trial in others:
        folder = storage / "small" / "trials" / trial["trial"]
        epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert epochs == [1, 2]
        assert not list(folder.glob("checkpoints/**/*.pt"))
    assert faults_of_experiment(open_storage(str(storage)), "small") == []
    after = stamps(storage)

    second = run(experiment, storage, code=1)
    assert second["started"] == 0
    assert stamps(storage) == after

    report = storage / "small" / "report"
    assert (report / "report.html").stat().st_size > 10_000
    assert "Two workers" in (report / "report.md").read_text()
    two = next(t for t in others if "after" in t["name"])
    result = json.loads((storage / "small" / "trials" / two["trial"] / "result.json").read_text())
    assert result["workers"] == 2

    into = tmp_path / "again"
    again = said("reproduce", f"small/{two['trial']}", "--storage", str(storage), "--run", "--into", str(into))
    assert again["comparison"]["identical"]
    assert stamps(storage) == after
    trained = json.loads((into / "small" / "trials" / two["trial"] / "result.json").read_text())
    assert (trained["workers"], trained["attempts"]) == (2, 1)


@pytest.fixture
def another_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster that `ray start` left on this machine, by what Ray finds of one; it does not answer."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        monkeypatch.setenv("RAY_TMPDIR", directory)  # short, since the names of Ray's sockets have a limit
        noted = Path(directory, "ray", "ray_current_cluster")
        noted.parent.mkdir()
        noted.write_text("127.0.0.1:1")
        yield noted.parent


def test_more_workers_than_processors_is_one_line_and_nothing_is_written(
    another_cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, experiment = tmp_path / "results", tmp_path / "small.toml"
    experiment.write_text((EXPERIMENT % {"epochs": 1}).replace('"run.workers" = 2', '"run.workers" = 4096'))
    assert main(["grid", "run", str(experiment), "--storage", str(storage)]) == 1
    assert list(another_cluster.glob("session_*")), "a Ray of its own has started there"
    (line,) = capsys.readouterr().err.splitlines()
    assert "4096 workers need 4096 CPUs" in line
    assert not [file for file in storage.rglob("*") if file.is_file() and ".lease" not in file.parts]
