"""Law 2: an interruption does not change the result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage import open_storage
from resnet_dist import checkpoints
from resnet_dist.configuration import TrainingConfig
from resnet_dist.errors import CheckpointError
from resnet_dist.recorder import Recorder
from resnet_dist.training import train
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset

SOLVERS: dict[str, dict[str, Any]] = {
    "sgd with warm-up": {"schedule__warmup_iterations": 4},
    "rmsprop": {"solver__kind": "rmsprop"},
    "adagrad": {"solver__kind": "adagrad", "data__sampling": "permutation"},
    "adadelta": {"solver__kind": "adadelta", "batch_norm__momentum": "dynamic"},
}


class Killed(BaseException):
    """Ends a run where it stands, as a signal would."""


def run(config: TrainingConfig, root: Path, kill_at: int | None = None) -> Recorder:
    """A run of `config` with its records below `root`, ended after `kill_at` updates."""

    def on_step(step: int, loss: object) -> None:
        if step == kill_at:
            raise Killed

    recorder = Recorder(open_storage(str(root)), "law-2", "trial", config)
    try:
        train(config, small_dataset(), alone("cpu"), recorder, on_step=on_step)
    except Killed:
        assert kill_at is not None
    return recorder


def weights(recorder: Recorder) -> dict[str, torch.Tensor]:
    data = recorder.storage.get(recorder.keys.model)
    assert data is not None
    return dict(checkpoints.decode(data)["network"])


def lines(recorder: Recorder) -> list[dict[str, Any]]:
    text = (recorder.storage.get(recorder.keys.metrics) or b"").decode()
    timings = ("seconds", "images_per_second")
    return [
        {name: value for name, value in json.loads(line).items() if name not in timings} for line in text.splitlines()
    ]


@pytest.mark.parametrize("kill_at", [3, 6, 9])  # inside the first epoch, at its end, inside the second
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_killed_run_resumes_to_the_same_bits(solver: str, kill_at: int, tmp_path: Path) -> None:
    config = small_config(run__precision="float32", run__checkpoint_steps=2, **SOLVERS[solver])
    undisturbed = run(config, tmp_path / "undisturbed")
    run(config, tmp_path / "killed", kill_at)
    resumed = run(config, tmp_path / "killed")
    assert resumed.provenance["attempts"][1:], "the run was not resumed"
    assert lines(resumed) == lines(undisturbed)
    expected, actual = weights(undisturbed), weights(resumed)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(run__checkpoint_steps=2)
    killed = run(config, tmp_path, kill_at=5)
    newest, before, *_ = killed.checkpoints.complete()
    assert (newest, before) == (4, 2)
    key = f"{killed.keys.checkpoints}{newest:010d}/state.pt"
    data = killed.storage.get(key)
    assert data is not None
    killed.storage.put(key, data[:-100])
    latest = killed.checkpoints.latest()
    assert latest is not None and checkpoints.decode(latest)["step"] == before
    assert key.removesuffix("state.pt") in caplog.text


def test_a_checkpoint_without_its_manifest_does_not_exist(tmp_path: Path) -> None:
    recorder = run(small_config(run__checkpoint_steps=2), tmp_path, kill_at=3)
    recorder.storage.delete(f"{recorder.keys.checkpoints}{2:010d}/manifest.json")
    assert recorder.checkpoints.complete() == []
    assert recorder.checkpoints.latest() is None


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    recorder = run(small_config(run__checkpoint_steps=2), tmp_path, kill_at=3)
    recorder.checkpoints.identity = small_config(solver__learning_rate=0.05).identity()
    with pytest.raises(CheckpointError, match=r"solver\.learning_rate differ"):
        recorder.checkpoints.latest()


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = small_config()
    first = run(config, tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    run(config, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == files
    assert first.checkpoints.complete() == []
