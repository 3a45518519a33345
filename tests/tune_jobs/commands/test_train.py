"""`resnet-dist train`: what it finds in storage before it trains, and what it tells of workers on other processes."""

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.exceptions
import ray.train

from cluster.ray_cluster.connection import Resources
from cluster.storage.lease import lease
from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import dataset_fingerprint
from resnet_dist.errors import UserError
from resnet_dist.storage.interface import TrialKeys, experiment_key
from tune_jobs.actions.training_job import one_line
from tune_jobs.command_line import main
from tune_jobs.results.experiment_record import record_single_run

SETTINGS = {"network.depth": 8, "network.width": 2, "run.epochs": 2, "schedule.milestones": [1]}
CONFIG = TrainingConfig().override(SETTINGS)
KEYS = TrialKeys("train", CONFIG.trial_id())


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "results")


@pytest.fixture
def command(tmp_path: Path, storage: LocalStorage) -> list[str]:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(CONFIG.to_dict()))
    return ["train", "--storage", storage.uri, "--config", str(file)]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_result_that_cannot_be_read_is_one_line(
    command: list[str], storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.put(KEYS.result, b"half a reco")
    assert "result.json is corrupt; delete this folder and run the trial again" in error_of(command, capsys)


def test_divergence_is_said_once(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["--data.train_limit", "64", "--data.test_limit", "16", "--data.batch_size", "32", "--epochs", "1"]
    small = ["--network.depth", "8", "--network.width", "2", "--schedule.milestones", "", *settings]
    line = error_of(["train", "--storage", storage.uri, *small, "--solver.learning_rate", "1e30"], capsys)
    assert line.endswith("in epoch 1; a lower solver.learning_rate may help")
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_record_of_earlier_runs_that_cannot_be_read_is_one_line(
    command: list[str], storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.put(experiment_key("train"), b"half a reco")
    assert "is not a readable experiment record" in error_of(command, capsys)


def test_a_grid_does_not_take_the_place_of_single_runs(
    tmp_path: Path, storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.put(experiment_key("demo"), json.dumps({"layout": 1, "experiment": "demo", "single_runs": True}).encode())
    line = error_of(["grid", "run", "demo", "--storage", storage.uri], capsys)
    assert "holds single runs of that name; give the experiment another name" in line
    assert not list(storage.list("demo/trials/"))


def test_a_trial_that_another_launch_is_at_is_refused_and_left_alone(
    command: list[str], storage: LocalStorage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_DIST_LEASE_SECONDS", "20")
    config = CONFIG.with_fingerprint(dataset_fingerprint(CONFIG.data))
    with lease(storage, "train", trial=config.trial_id(), duration=20):
        line = error_of(command, capsys)
    assert (
        f"train, trial {config.trial_id()}: another launch is at work in {storage.uri}: process {os.getpid()}" in line
    )
    assert [item.key.split("/")[1] for item in storage.list("train/")] == [".lease"]


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda", "2 workers need 2 GPUs and the cluster has none"),
        ("cpu", "2 workers need 2 CPUs and the cluster has 1 CPU"),
    ],
)
def test_whether_there_are_places_for_several_workers_is_the_clusters_to_say(
    device: str,
    said: str,
    command: list[str],
    storage: LocalStorage,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def connected() -> Iterator[Resources]:
        yield Resources(cpus=1, gpus=0, nodes=1)

    monkeypatch.setattr("cluster.ray_cluster.connection.connected", connected)
    assert said in error_of([*command, "--workers", "2", "--device", device], capsys)
    assert not [item.key for item in storage.list("") if "/.lease/" not in item.key]


def failed(error: Exception) -> Exception:
    """What Ray Train raises when this has ended one of its workers."""
    return ray.train.WorkerGroupError(f"rank 1: {error}", {1: error})


def test_workers_that_died_areone_line() -> None:
    with pytest.raises(UserError, match="its process or node died in 4 attempts"), one_line():
        raise failed(ray.exceptions.WorkerCrashedError())


def test_a_bug_on_a_worker_keeps_its_traceback() -> None:
    with pytest.raises(ray.train.TrainingFailedError), one_line():
        raise failed(ZeroDivisionError("division by zero"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["--epochs", "20"],
            ["Note: within 20 epochs the learning rate does not drop", "scaled: schedule.milestones 8,12"],
        ),
        (["--epochs", "20", "--schedule.milestones", "8,12"], []),
        (["--epochs", "20", "--schedule.kind", "cosine"], []),
        (["--epochs", "1"], []),
        ([], []),
    ],
)
def test_a_run_too_short_for_its_milestones_is_noted(
    settings: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--storage", str(tmp_path), "--dry-run", *settings]) == 0
    printed = capsys.readouterr().out
    assert all(part in printed for part in said) and ("Note:" in printed) == bool(said)


def test_a_storage_that_is_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    line = error_of(["train", "--storage", str(tmp_path / "file")], capsys)
    assert line == f"error: storage {tmp_path}/file: is a file; give a directory, or s3://bucket/prefix"


def test_a_run_over_other_epochs_is_said_to_be_another_run(
    command: list[str], storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.with_fingerprint(dataset_fingerprint(CONFIG.data))
    record_single_run(storage, "train", config, "name")
    for changed, said in (
        (["--epochs", "4"], True),
        (["--epochs", "4", "--schedule.milestones", "2,3"], True),
        (["--epochs", "4", "--seed", "1"], False),
        ([], False),
    ):
        assert main([*command, *changed, "--dry-run"]) == 0
        note = f"Note: {config.trial_id()} is this run over 2 epochs. How long it is decides what it is"
        assert (note in capsys.readouterr().out) == said


def test_one_process_trains_without_ray(command: list[str]) -> None:
    """In a process of its own: where modules are imported already, they would not ask for it again."""
    few = ["--data.train_limit", "20", "--data.test_limit", "10", "--data.batch_size", "10", "--epochs", "2"]
    without = "import sys; sys.modules['ray'] = None; "  # which takes seconds and 140 MiB to import
    code = f"{without}from tune_jobs.command_line import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command, *few], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_a_lack_of_memory_is_one_line_with_advice(
    error: Exception, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tune_jobs.actions.training_job.run_in_process", fail)
    assert "out of memory in 1 attempt; a higher data.accumulation takes less" in error_of(command, capsys)
