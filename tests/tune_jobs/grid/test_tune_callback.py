"""What is put on record of trials that end without a result."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
import torch

from cluster.storage.opening import open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.storage.interface import TrialKeys
from tune_jobs.grid.experiment import Trial
from tune_jobs.grid.failures import failure_of
from tune_jobs.grid.observer import Observer
from tune_jobs.grid.tune_callback import Progress

TRIAL = Trial(TrainingConfig(), "a-trial")


def wrapped(error: Exception) -> Exception:
    """An error of a trial's code as Ray hands it to the driver."""
    return ray.exceptions.RayTaskError("train", f"Traceback ...\n  File ...\n{error!r}", error)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (wrapped(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")), "out_of_memory", "2 GiB"),
        (ray.exceptions.OutOfMemoryError("task was killed due to the node running low on memory"), "out_of_memory", ""),
        (ray.exceptions.ActorDiedError(), "killed", "its process or node died in 3 attempts"),
        (ray.exceptions.WorkerCrashedError(), "killed", "its process or node died in 3 attempts"),
        (wrapped(ZeroDivisionError("division by zero")), "error", "division by zero"),
        (ZeroDivisionError(), "error", "ZeroDivisionError"),
    ],
)
def test_failures_are_told_apart(error: Exception, kind: str, says: str) -> None:
    found, reason = failure_of(error, attempts=3)
    assert found == kind and says in reason
    assert "\n" not in reason


def listen(heard: list[Any], *told: Any) -> None:
    heard.append(told)


def heard(tmp_path: Path) -> tuple[Progress, dict[str, list[Any]]]:
    told: dict[str, list[Any]] = {"start": [], "result": [], "failure": [], "stop": [], "trouble": []}
    observer = Observer(**{f"on_{name}": partial(listen, told[name]) for name in told})
    return Progress({"x": TRIAL}, "experiment", str(tmp_path), observer), told


def tune_trial(last: dict[str, Any]) -> Any:
    return SimpleNamespace(config={"trial_id": "x"}, last_result=last, num_failures=0)


def failure(tmp_path: Path) -> dict[str, Any] | None:
    data = open_storage(str(tmp_path)).get(TrialKeys("experiment", TRIAL.trial_id).failure)
    return json.loads(data) if data else None


def test_a_trial_that_a_search_stopped_is_on_record_as_stopped(tmp_path: Path) -> None:
    progress, told = heard(tmp_path)
    progress.on_trial_complete(1, [], tune_trial({"epoch": 4, "top1_error": 0.5}))
    record = failure(tmp_path)
    assert record is not None and (record["kind"], record["early_stopped"]) == ("early-stopped", True)
    assert record["reason"] == "stopped by asha after epoch 4 of 200, at a test error of 50.00 %"
    assert told["stop"] == [(TRIAL, record["reason"])] and not told["failure"]


@pytest.mark.parametrize("last", [{"finished": True}, {"diverged": "nan"}, {}])
def test_a_trial_that_ended_by_itself_is_not_stopped(last: dict[str, Any], tmp_path: Path) -> None:
    progress, told = heard(tmp_path)
    progress.on_trial_complete(1, [], tune_trial(last))
    assert failure(tmp_path) is None and not told["stop"]


def test_the_observer_hears_of_starts_and_epochs(tmp_path: Path) -> None:
    progress, told = heard(tmp_path)
    progress.on_trial_start(1, [], tune_trial({}))
    progress.on_trial_result(1, [], tune_trial({}), {"epoch": 1, "top1_error": 0.5})
    progress.on_trial_result(1, [], tune_trial({}), {"finished": True})
    assert told["start"] == [(TRIAL,)]
    assert [line["epoch"] for _, line in told["result"]] == [1]


def test_trouble_with_storage_is_told_once_while_trials_run_and_of_each_that_ends_with_it(tmp_path: Path) -> None:
    progress, told = heard(tmp_path)
    for epoch in (1, 2):
        line = {"epoch": epoch, "top1_error": 0.5, "storage_trouble": "the bucket does not exist"}
        progress.on_trial_result(1, [], tune_trial({}), line)
    assert told["trouble"] == [(TRIAL, "the bucket does not exist")]
    assert len(told["result"]) == 2, "the epochs are told all the same"
    for _ in range(2):
        progress.on_trial_result(1, [], tune_trial({}), {"waiting": "2 of its writes wait"})
    assert told["trouble"][1:] == [(TRIAL, "2 of its writes wait")] * 2
    assert not told["failure"] and failure(tmp_path) is None, "such a trial has not failed: it is trained"


def test_a_trial_that_would_fail_again_is_on_record_and_told_once(tmp_path: Path) -> None:
    progress, told = heard(tmp_path)
    progress.on_trial_result(1, [], tune_trial({}), {"failed": "node a: there is no NVIDIA driver"})
    progress.on_trial_complete(1, [], tune_trial({"failed": "node a: there is no NVIDIA driver"}))
    record = failure(tmp_path)
    assert record is not None
    assert (record["kind"], record["reason"], record["attempts"]) == ("error", "node a: there is no NVIDIA driver", 1)
    assert told["failure"] == [(TRIAL, "node a: there is no NVIDIA driver")]


def test_a_failure_that_cannot_be_put_on_record_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "experiment").write_text("a file where the folder should be")
    progress, told = heard(tmp_path)
    trial = tune_trial({})
    trial.get_error = lambda: wrapped(ZeroDivisionError("division by zero"))
    progress.on_trial_error(1, [], trial)
    ((_, reason),) = told["trouble"]
    assert "a part of this path is a file" in reason and "\n" not in reason
    assert len(told["failure"]) == 1
