"""The energy that training takes, with counters that are made up: no machine of the tests has a GPU."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cluster.storage.opening import open_storage
from resnet_dist.records.recorder import Recorder
from resnet_dist.storage.interface import TrialKeys
from resnet_dist.training import loop as training
from resnet_dist.training.energy import Counter, EnergyMeter, energy_meter, nvml_counter
from resnet_dist.workers import Workers, alone
from tests.small_runs import small_config, small_dataset
from tests.worker_processes import run_workers

GPU = torch.device("cuda", 0)
CONFIG = small_config(run__checkpoint_steps=2)


def counter(*readings: float | None, gpu: str = "GPU-a") -> Counter:
    return Counter(gpu, iter(readings).__next__)


class KilledError(Exception):
    """In the place of a process that dies."""


def train(folder: Path, step_joules: float | None, stop_at: int | None = None) -> dict[str, Any]:
    """Train with a counter that goes up with each step, or with none; `stop_at` interrupts it at a step."""
    recorder = Recorder(open_storage(str(folder)), "energy", "one", CONFIG)
    steps = 0

    def on_step(step: int, _: torch.Tensor) -> None:
        nonlocal steps
        steps += 1
        if step == stop_at:
            raise KilledError

    made = Counter("GPU-a", lambda: 1000.0 + step_joules * steps) if step_joules is not None else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "energy_meter", lambda workers: EnergyMeter(workers, made))
        return training.train(CONFIG, small_dataset(), alone("cpu"), recorder, on_step=on_step)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = open_storage(str(folder)).get(TrialKeys("energy", CONFIG.trial_id()).metrics) or b""
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_records_the_joules_of_each_epoch_and_their_sum(tmp_path: Path) -> None:
    result = train(tmp_path, step_joules=2.5)
    assert [line["energy_joules"] for line in lines(tmp_path)] == [15.0, 15.0]  # six steps an epoch
    assert result["energy_joules"] == 30.0


def test_beside_others_nobody_knows_what_a_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_dist.training.energy.nvml_counter", lambda device: counter(1.0))
    assert energy_meter(Workers(0, 1, GPU)) is not None
    assert energy_meter(Workers(0, 1, GPU, side_by_side=2)) is None


def test_attempts_add_up_and_the_rest_of_an_epoch_stands_for_the_whole_of_it(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(tmp_path, step_joules=2.0, stop_at=10)
    result = train(tmp_path, step_joules=3.0)  # goes on after step 8: four steps of the second epoch
    assert [line["energy_joules"] for line in lines(tmp_path)] == [12.0, 18.0]
    assert result["energy_joules"] == 30.0


def test_a_run_of_which_one_attempt_had_no_counter_does_not_know_its_energy(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(tmp_path, step_joules=None, stop_at=10)
    result = train(tmp_path, step_joules=3.0)
    assert ["energy_joules" in line for line in lines(tmp_path)] == [False, True]
    assert "energy_joules" not in result


def test_on_a_cpu_nothing_is_measured() -> None:
    assert energy_meter(alone("cpu")) is None


def test_a_counter_that_stops_answering_makes_the_energy_unknown() -> None:
    for readings in ((None, 5.0), (5.0, None)):
        meter = EnergyMeter(alone("cpu"), counter(*readings))
        meter.start()
        assert meter.joules() is None


def joules_together(gpus: list[str | None]) -> float | None:
    """Run on each worker: the r-th has a counter on the r-th GPU that goes up by 10 (r + 1) joules."""
    rank = dist.get_rank()
    gpu = gpus[rank]
    made = counter(7e6, 7e6 + 10 * (rank + 1), gpu=gpu) if gpu else None
    meter = EnergyMeter(Workers(rank, dist.get_world_size(), torch.device("cpu")), made)
    meter.start()
    return meter.joules()


@pytest.mark.integration
def test_workers_add_up_their_gpus_each_once_and_know_nothing_unless_all_do() -> None:
    assert run_workers(joules_together, 2, ["GPU-a", "GPU-b"]) == [30.0, 30.0]
    (one, other) = run_workers(joules_together, 2, ["GPU-a", "GPU-a"])
    assert one == other
    assert one in (10.0, 20.0)
    assert run_workers(joules_together, 2, ["GPU-a", None]) == [None, None]


class FakeNvml(SimpleNamespace):
    """Stands for the module pynvml: one GPU, whose counter shows millijoules."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__(asked=[], split=False, millijoules=[1_234_567, 2_234_567])

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        return "handle"

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:  # noqa: N802
        if self.split is None:
            raise self.NVMLError("not supported")
        return [int(self.split), int(self.split)]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if not self.millijoules:
            raise self.NVMLError("not supported")
        return int(self.millijoules.pop(0))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    yield fake


def test_nvml_is_asked_for_the_gpu_that_cuda_computes_on_and_answers_in_millijoules(nvml: FakeNvml) -> None:
    found = nvml_counter(GPU)
    assert found is not None
    assert nvml.asked == ["GPU-12-34"]
    assert (found.gpu, found.read()) == ("GPU-12-34", 2234.567)
    assert found.read() is None  # it has stopped answering


def test_a_gpu_that_knows_no_instances_is_whole(nvml: FakeNvml) -> None:
    nvml.split = None
    assert nvml_counter(GPU) is not None


def _split(nvml: FakeNvml) -> None:
    nvml.split = True


def _without_counter(nvml: FakeNvml) -> None:
    nvml.millijoules.clear()


def _without_driver(nvml: FakeNvml) -> None:
    def fail() -> None:
        raise nvml.NVMLError("no driver")

    nvml.nvmlInit = fail  # type: ignore[method-assign]


@pytest.mark.parametrize("lacking", [_split, _without_counter, _without_driver])
def test_what_nvml_cannot_tell_is_unknown_and_no_error(nvml: FakeNvml, lacking: Callable[[FakeNvml], None]) -> None:
    lacking(nvml)
    assert nvml_counter(GPU) is None


def test_without_the_package_the_energy_is_unknown_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_counter(GPU) is None
