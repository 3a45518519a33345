"""Which trials of a grid run together, and what each takes of the cluster."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray.air.execution._internal import RayActorManager

from cluster.ray_cluster.connection import Resources
from cluster.storage.local import LocalStorage
from resnet_dist.errors import DivergedError, StorageError, UserError, WaitingError
from resnet_dist.gpus import DeviceError
from resnet_dist.launch import Job
from tests.small_runs import small_config
from tune_jobs.grid import run as grid
from tune_jobs.grid.experiment import Trial
from tune_jobs.grid.packing import Packing

MIXED = Resources(cpus=8, gpus=2, nodes=2, gpu_workers=2)
ON_CPUS = Resources(cpus=8, gpus=0, nodes=2)
WITH_PLACES = Resources(cpus=8, gpus=2, nodes=2, driver_slots=4, gpu_workers=2)


@pytest.mark.parametrize(
    ("workers", "use_gpu", "resources", "takes"),
    [
        (1, False, MIXED, {"CPU": 1}),
        (1, True, MIXED, {"CPU": 1, "GPU": 1}),
        # The driver of a worker group takes nothing that its workers need, and no GPU above all.
        (2, True, MIXED, {"memory": grid.DRIVER_MEMORY}),
        (2, False, ON_CPUS, {"memory": grid.DRIVER_MEMORY}),
        (2, True, WITH_PLACES, {"memory": grid.DRIVER_MEMORY, "trial_driver": 1}),
    ],
)
def test_what_the_actor_of_a_trial_takes(
    workers: int, use_gpu: bool, resources: Resources, takes: dict[str, float]
) -> None:
    assert grid.actor_resources(workers, use_gpu, resources) == takes


def groups(monkeypatch: pytest.MonkeyPatch, resources: Resources) -> list[tuple[int, bool, list[str]]]:
    """Workers, GPU or not, and names of the trials of each run of Ray Tune, in their order."""
    ran: list[tuple[int, bool, list[str]]] = []

    def run_group(trials: list[Trial], workers: int, use_gpu: bool, *_: Any) -> None:
        ran.append((workers, use_gpu, [trial.name for trial in trials]))

    monkeypatch.setattr(grid, "_run_group", run_group)
    trials = [
        Trial(small_config(run__workers=workers, run__device=device), f"{device}-{workers}")
        for workers in (1, 2)
        for device in ("auto", "cpu", "cuda")
    ]
    grid.run_trials(trials, "e", "/nowhere", resources, observer=None)  # type: ignore[arg-type]
    return ran


def test_three_thirds_of_a_gpu_are_not_more_than_one() -> None:
    for count in range(2, 33):
        (part,) = {*grid.actor_resources(1, True, MIXED, side_by_side=count).values()}
        assert 0.99 < count * part <= 1 and round(part * grid.RAY_UNITS) == pytest.approx(part * grid.RAY_UNITS)


def test_trials_that_share_a_gpu_have_as_many_threads_and_those_that_do_not_run_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[list[str], int]] = []
    monkeypatch.setattr(grid, "_run_group", lambda trials, *rest: ran.append(([t.name for t in trials], rest[-1])))
    settings: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {"run__seed": 1},
        "two threads": {"run__threads": 2},
        "eager": {"run__cuda_graph": False},
        "on a processor": {"run__device": "cpu"},
    }
    trials = [Trial(small_config(**each), name) for name, each in settings.items()]
    asked = Packing(4, 1.87, is_asked=True)
    grid.run_trials(trials, "e", "/nowhere", MIXED, None, side_by_side=asked.of)  # type: ignore[arg-type]
    assert ran == [(["on a processor"], 1), (["eager"], 1), (["a", "b"], 4), (["two threads"], 4)]


def test_on_a_mixed_cluster_each_trial_goes_where_its_own_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert groups(monkeypatch, MIXED) == [
        (1, False, ["cpu-1"]),
        (1, True, ["auto-1", "cuda-1"]),
        (2, False, ["cpu-2"]),
        (2, True, ["auto-2", "cuda-2"]),
    ]


def test_on_a_cluster_what_needs_most_places_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [workers for workers, _, _ in groups(monkeypatch, replace(MIXED, is_ours=False))]
    assert sizes == [2, 2, 1, 1]


def test_where_there_are_no_gpus_auto_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [names for _, use_gpu, names in groups(monkeypatch, ON_CPUS) if use_gpu] == [["cuda-1"], ["cuda-2"]]


class Group:
    """Stands for workers whose answer is an error, or a result."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.is_alive = True

    def do(self, job: Job, on_line: Any) -> Any:
        on_line({"epoch": 1, "train_loss": 0.5})
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"top1_error": 0.1}, {"finished": True}),
        (DivergedError("the training loss is nan"), {"diverged": "the training loss is nan"}),
        (WaitingError("its end is not on record"), {"waiting": "its end is not on record"}),
        (DeviceError("node a: there is no NVIDIA driver"), {"failed": "node a: there is no NVIDIA driver"}),
        (StorageError("the bucket does not answer"), None),  # raised: it may be back when Tune tries again
    ],
)
def test_what_tune_hears_of_a_trial_on_workers(
    answer: Any, said: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reported.append)
    monkeypatch.setattr(grid, "_GROUPS", [Group(answer)])
    job = Job(small_config(run__workers=2, run__device="cpu"), "e", "name", lambda: LocalStorage(Path("/nowhere")))
    if said is None:
        with pytest.raises(StorageError):
            grid._train_trial({"trial_id": "x"}, {"x": job}, {}, use_gpu=False)
    else:
        grid._train_trial({"trial_id": "x"}, {"x": job}, {}, use_gpu=False)
    assert reported == [{"epoch": 1, "train_loss": 0.5}, *([said] if said else [])]


def test_a_trial_beside_others_is_given_to_their_process(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reported.append)

    def beside(job: Job, processes: Any, on_epoch: Any) -> None:
        assert processes == "the processes"
        on_epoch({"epoch": 1})

    monkeypatch.setattr("resnet_dist.launch.run_beside", beside)
    job = Job(small_config(), "e", "name", lambda: LocalStorage(Path("/nowhere")))
    grid._train_trial({"trial_id": "x"}, {"x": job}, {}, use_gpu=True, processes="the processes")
    assert reported == [{"epoch": 1}, {"finished": True}]


def test_a_group_that_has_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start(workers: int, *_: Any) -> Group:
        started.append(workers)
        return Group(None)

    monkeypatch.setattr("resnet_dist.launch.worker_group", start)
    monkeypatch.setattr(grid, "_GROUPS", [])
    first = grid._group(2, {}, use_gpu=False)
    assert grid._group(2, {}, use_gpu=False) is first
    first.is_alive = False  # type: ignore[misc]
    assert grid._group(2, {}, use_gpu=False) is not first
    assert started == [2, 2]


def test_an_actor_that_is_ended_for_memory_as_it_starts_is_one_line() -> None:
    killed = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory: 9 GB")
    nobody: Any = SimpleNamespace(_tracked_actor=None)
    with pytest.raises(UserError) as caught, grid._one_line():
        RayActorManager._actor_task_failed(nobody, nobody, killed)
    assert str(caught.value) == (
        "a trial could not be started: out of memory in 1 attempt; a higher data.accumulation takes less, and so do "
        "more workers: Memory: 9 GB; the same command goes on with what is missing"
    )
    with pytest.raises(RuntimeError, match="a bug"), grid._one_line():
        raise RuntimeError("a bug")
