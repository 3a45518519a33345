"""What the driver of a trial of several workers makes of its end, which it reads from storage."""

import functools
from pathlib import Path
from typing import Any

import pytest
import ray.train.torch
import ray.tune.integration.ray_train
from ray import tune
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from resnet_dist.errors import DataError, DivergedError, StorageError, UserError, WaitingError
from resnet_dist.gpus import DeviceError
from resnet_dist.launch import Job, run_on_workers
from resnet_dist.process_group import ProcessGroupConfig
from resnet_dist.records.recorder import record_failure
from resnet_dist.records.trial_record import encode_result
from resnet_dist.storage.interface import LAYOUT
from tests.small_runs import small_config
from tune_jobs.grid.run import _train_trial

CONFIG = small_config(run__workers=2, run__device="cpu")
RESULT = {"layout": LAYOUT, "trial": CONFIG.trial_id(), "epochs": 2, "top1_error": 0.1}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A trial whose workers come and go at once, and write nothing."""

    class Trainer:
        def __init__(self, *_: object, **settings: object) -> None:
            pass

        def fit(self) -> None:
            pass

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    return Job(CONFIG, "e", "name", functools.partial(open_storage, str(tmp_path)))


def run(job: Job) -> dict[str, object]:
    return run_on_workers(job, {"storage_path": "/nowhere"}, use_gpu=False)


def test_a_trial_with_a_result_is_finished(job: Job, tmp_path: Path) -> None:
    LocalStorage(tmp_path).put(job.keys.result, encode_result(RESULT))
    assert run(job) == RESULT  # without the digest, as from one process


def test_a_trial_that_diverged_says_so(job: Job, tmp_path: Path) -> None:
    record_failure(LocalStorage(tmp_path), job.keys, "diverged", "the training loss is nan", 1)
    with pytest.raises(DivergedError, match="the training loss is nan"):
        run(job)


def test_a_failure_of_an_earlier_attempt_is_not_taken_for_divergence(job: Job, tmp_path: Path) -> None:
    record_failure(LocalStorage(tmp_path), job.keys, "killed", "its node died", 4)
    with pytest.raises(WaitingError, match="its end is not on record"):
        run(job)


def test_a_trial_without_either_waits_on_the_host_of_its_first_worker(job: Job, tmp_path: Path) -> None:
    with pytest.raises(WaitingError, match="storage could not be written on the host of its first worker") as caught:
        run(job)
    assert CONFIG.trial_id() in str(caught.value) and "\n" not in str(caught.value)


def test_so_does_one_whose_storage_cannot_be_read(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(self: LocalStorage, key: str) -> bytes:
        raise StorageError("the bucket does not exist; create it")

    monkeypatch.setattr(LocalStorage, "get", vanished)
    with pytest.raises(WaitingError, match="its end is not on record: the bucket does not exist; create it"):
        run(job)


def test_to_tune_it_has_not_failed_and_is_not_tried_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, object]] = []
    monkeypatch.setattr(tune, "report", reported.append)
    # The real one refuses to be outside a trial.
    monkeypatch.setattr(ray.tune.integration.ray_train, "TuneReportCallback", ray.train.UserCallback)
    _train_trial({"trial_id": "x"}, {"x": job}, {"storage_path": "/nowhere"}, use_gpu=False)
    (line,) = reported
    assert str(line["waiting"]).startswith(f"trial {CONFIG.trial_id()} has run, but its end is not on record")


def test_ctrl_c_in_a_worker_group_is_ctrl_c(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: object) -> None:
        raise SystemExit(1)  # as Ray Train answers it

    monkeypatch.setattr(ray.train.torch.TorchTrainer, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        run(job)


@pytest.mark.parametrize(
    "error",
    [
        ray.train.WorkerGroupError(
            "rank 1", {1: UserExceptionWithTraceback(DataError("there is no file"), "Traceback")}
        ),
        ray.train.ControllerError(DeviceError("there is no file")),
    ],
)
def test_what_a_user_can_put_right_on_a_worker_is_one_line(
    error: Exception, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, error)
    with pytest.raises(UserError, match=r"^there is no file$"):
        run(job)


def test_a_bug_on_a_worker_stays_what_it_is(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(monkeypatch, ray.train.WorkerGroupError("rank 1", {1: ZeroDivisionError()}))
    with pytest.raises(ray.train.WorkerGroupError):
        run(job)


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The trial's workers end with this error."""

    def fit(self: object) -> None:
        raise error

    monkeypatch.setattr(ray.train.torch.TorchTrainer, "fit", fit)


def test_to_tune_a_users_error_is_an_end_and_no_failure_to_be_tried_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, object]] = []
    monkeypatch.setattr(tune, "report", reported.append)
    monkeypatch.setattr(ray.tune.integration.ray_train, "TuneReportCallback", ray.train.UserCallback)
    fails(monkeypatch, ray.train.ControllerError(DeviceError("node a: there is no NVIDIA driver")))
    _train_trial({"trial_id": "x"}, {"x": job}, {"storage_path": "/nowhere"}, use_gpu=True)
    assert reported == [{"failed": "node a: there is no NVIDIA driver"}]
    fails(monkeypatch, ray.train.ControllerError(StorageError("the bucket does not answer")))
    with pytest.raises(StorageError):
        _train_trial({"trial_id": "x"}, {"x": job}, {"storage_path": "/nowhere"}, use_gpu=True)


@pytest.mark.parametrize(("use_gpu", "resources"), [(True, {"CPU": 1, "GPU": 1}), (False, {"CPU": 1})])
def test_workers_ask_for_a_gpu_each_if_the_run_is_to_have_some_and_their_devices_choose_the_backend(
    use_gpu: bool, resources: dict[str, float], job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray.train.torch.TorchTrainer, "__init__", lambda self, *_, **settings: asked.update(settings))
    LocalStorage(tmp_path).put(job.keys.result, encode_result(RESULT))
    run_on_workers(job, {"storage_path": "/nowhere"}, use_gpu)
    scaling = asked["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == (2, use_gpu, resources)
    assert isinstance(asked["torch_config"], ProcessGroupConfig) and asked["torch_config"].backend is None
