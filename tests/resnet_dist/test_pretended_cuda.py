"""The rehearsal, without a GPU, of all that only a GPU enters; `tests/pretended_cuda.py` says what is pretended.

A pretended GPU computes on the CPU, so a run on it has the CPU's bits, and every difference is a fault.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from resnet_dist import gpus as gpus_of_ray
from resnet_dist.gpus import Cuda, Gpu, faults_of_gpus, read_cuda
from resnet_dist.launch import Job, _train_worker
from resnet_dist.records import checkpoints
from resnet_dist.records.recorder import Recorder
from resnet_dist.training import energy, update
from resnet_dist.training.energy import Counter
from resnet_dist.training.loop import train
from resnet_dist.training.numerics import settings_of_run
from resnet_dist.training.state import Training
from resnet_dist.worker_group import this_worker
from resnet_dist.workers import Workers, alone, choose_device, current
from tests import pretended_cuda
from tests.killed_runs import outcome
from tests.pretended_cuda import WAITS, OnGpu, has_cuda_kernel
from tests.small_runs import Trace, small_config, small_dataset, trace, trace_of
from tests.worker_processes import run_workers

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"run__precision": "float32"},
    "float64, projections, dynamic momentum, accumulation": {
        "network__shortcut": "B",
        "batch_norm__momentum": "dynamic",
        "data__accumulation": 3,
    },
    "bfloat16, pre-activation, AdamW": {
        "run__precision": "bfloat16",
        "network__family": "preactivation",
        "solver__kind": "adamw",
    },
    "workers without a sample": {"data__sampling": "permutation", "data__batch_size": 19},
    "exact": {"run__exact": True, "run__precision": "float32", "run__virtual_shards": 4},
    "exact, bfloat16": {"run__exact": True, "run__precision": "bfloat16", "run__virtual_shards": 4},
}
STEPS = 4


def same_bits(a: Trace, b: Trace) -> bool:
    equal = a.state.keys() == b.state.keys() and all(torch.equal(a.state[name], b.state[name]) for name in a.state)
    return equal and a.losses == b.losses and a.evaluation == b.evaluation


@pytest.fixture
def gpus() -> Iterator[None]:
    """This process seems to see two GPUs."""
    with pretended_cuda.pretended_cuda(count=2):
        yield


@pytest.fixture(autouse=True)
def arithmetic_of_a_gpu() -> Iterator[None]:
    with told_as_on_a_gpu():
        yield


@contextlib.contextmanager
def told_as_on_a_gpu() -> Iterator[None]:
    """The CPU takes what changes from step to step from tensors, by the formulas of GPUs: they round differently."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "told_by_host", lambda device: False)
        yield


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_worker_computes_on_its_gpu_what_it_computes_on_the_cpu(variant: str) -> None:
    config, dataset = small_config(**VARIANTS[variant]), small_dataset(train=58, test=21)
    expected = trace(config, dataset, STEPS)
    with pretended_cuda.pretended_cuda():
        assert same_bits(trace_of(config, dataset, STEPS, alone("cuda")), expected)


def traces_of(on_gpus: bool, *names: str) -> dict[str, Trace]:
    """Run on each worker: what it computes, on GPUs on one of its own, which is not the first but for one worker."""
    dataset = small_dataset(train=58, test=21)
    configs = {name: small_config(**VARIANTS[name]) for name in names}
    if not on_gpus:
        with told_as_on_a_gpu():
            return {name: trace_of(config, dataset, STEPS, current("cpu")) for name, config in configs.items()}
    with pretended_cuda.pretended_cuda(count=dist.get_world_size()):
        workers = current("cuda", torch.device("cuda", dist.get_world_size() - 1 - dist.get_rank()))
        return {name: trace_of(config, dataset, STEPS, workers) for name, config in configs.items()}


@functools.cache
def of_two_workers(on_gpus: bool) -> list[dict[str, Trace]]:
    return run_workers(traces_of, 2, on_gpus, *VARIANTS)


@pytest.mark.integration
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_workers_compute_on_two_gpus_what_they_compute_on_cpus(variant: str) -> None:
    for on_gpus, on_cpus in zip(of_two_workers(True), of_two_workers(False), strict=True):
        assert same_bits(on_gpus[variant], on_cpus[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_never_waits_for_the_gpu(variant: str, gpus: None) -> None:
    config = small_config(**VARIANTS[variant])
    with settings_of_run(config.run.exact):
        training = Training(config, small_dataset(), alone("cuda"))
        training.start_epoch()
        WAITS.clear()
        for _ in range(3):
            training.update()
    assert WAITS == []


def test_images_and_weights_lie_on_the_workers_gpu(gpus: None) -> None:
    training = Training(small_config(), small_dataset(), current_of_one(torch.device("cuda", 1)))
    tensors = [*training.network.state_dict().values(), training.batches.images, training.batches.labels]
    for _, _, images, labels in training.test.parts:
        tensors += [*(view for piece in images.pieces(10) for view in piece), labels]
    assert {tensor.device for tensor in tensors} == {torch.device("cuda", 1)}


def current_of_one(gpu: torch.device) -> Workers:
    torch.cuda.set_device(gpu)
    return Workers(0, 1, gpu)


# A whole run, through the function that Ray Train calls


class Joules:
    """Counters of pretended GPUs, each of which takes 10 (index + 1) joules between two readings."""

    def __init__(self, device: torch.device) -> None:
        self.index = torch.cuda.current_device() if device.index is None else device.index
        self.value = 1000.0

    def read(self) -> float:
        self.value += 10 * (self.index + 1)
        return self.value


def run_of_ray_train(directory: Path, on_gpus: bool, **settings: Any) -> None:
    """Run on each worker: a run from its beginning to its end, on the GPU that Ray is made to give to this worker."""
    config = small_config(run__workers=dist.get_world_size(), run__device="cuda" if on_gpus else "cpu", **settings)
    job = Job(config, "killed", "trial", functools.partial(open_storage, str(directory)))
    dataset = small_dataset(train=56, test=10)
    with pytest.MonkeyPatch.context() as patch:
        # In another order than the workers: the first one has the second GPU.
        device = torch.device("cuda", 1 - dist.get_rank()) if on_gpus else torch.device("cpu")
        patch.setattr(gpus_of_ray, "assigned_device", lambda: device)
        patch.setattr("resnet_dist.launch._dataset", lambda content: dataset)
        patch.setattr("resnet_dist.data.staged.is_at_hand", lambda data: True)

        def counter(device: torch.device) -> Counter:
            return Counter(f"GPU-{device}", Joules(device).read)

        patch.setattr(energy, "nvml_counter", counter)
        _train_worker(job, this_worker(), lambda line: None)


def runs_of_ray_train(directory: Path, on_gpus: bool) -> None:
    settings = {"run__precision": "float32", "run__histogram_epochs": 1, "run__checkpoint_steps": 2}
    if on_gpus:
        with pretended_cuda.pretended_cuda(count=2):
            run_of_ray_train(directory, True, **settings)
    else:
        with told_as_on_a_gpu():
            run_of_ray_train(directory, False, **settings)


@pytest.mark.integration
def test_a_run_on_two_gpus_records_what_one_on_cpus_records_and_the_gpus_and_their_energy(tmp_path: Path) -> None:
    for place in ("cuda", "cpu"):
        run_workers(runs_of_ray_train, 2, tmp_path / place, place == "cuda")
    config = small_config(
        run__precision="float32", run__histogram_epochs=1, run__checkpoint_steps=2, run__workers=2, run__device="cpu"
    )
    on_gpus, on_cpus = (outcome(LocalStorage(tmp_path / place), config, "killed") for place in ("cuda", "cpu"))
    joules = [line.pop("energy_joules") for line in on_gpus.lines]
    assert joules == [30.0, 30.0]
    assert on_gpus.lines == on_cpus.lines
    assert all(torch.equal(value, on_cpus.weights[name]) for name, value in on_gpus.weights.items())
    trial = tmp_path / "cuda" / "killed" / "trials" / config.trial_id()
    result, provenance = (json.loads((trial / f"{name}.json").read_text()) for name in ("result", "provenance"))
    assert (result["device"], result["workers"], result["energy_joules"]) == ("cuda", 2, 60.0)
    assert provenance["device"] == "a pretended GPU" and provenance["cuda"] == torch.version.cuda
    assert [machine["device"] for machine in provenance["machines"]] == ["a pretended GPU"] * 2


# Checkpoints


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_checkpoint_of_one_device_loads_on_the_other(first: str, second: str, solver: str, gpus: None) -> None:
    config, dataset = small_config(solver__kind=solver), small_dataset()

    def steps(training: Training, count: int) -> None:
        for _ in range(count):
            training.start_epoch()
            training.update()

    whole, begun, resumed = (Training(config, dataset, alone(device)) for device in ("cpu", first, second))
    steps(whole, 5)
    steps(begun, 3)
    resumed.load(checkpoints.decode(checkpoints.encode(begun.state())))
    steps(resumed, 2)
    assert resumed.epoch_losses() == whole.epoch_losses()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name].cpu(), value)


class Stopped(BaseException):
    """Ends a run where it stands."""


def test_a_run_that_is_interrupted_goes_on_from_storage_to_the_same_bits(tmp_path: Path, gpus: None) -> None:
    config, dataset = small_config(run__checkpoint_steps=2, run__precision="float32"), small_dataset(train=56, test=10)
    steps: list[int] = []

    def run(directory: Path, device: str, stop_at: int | None = None) -> None:
        steps.clear()

        def on_step(step: int, loss: Tensor) -> None:
            steps.append(step)
            if step == stop_at:
                raise Stopped

        train(
            config, dataset, alone(device), Recorder(LocalStorage(directory), "killed", "trial", config), None, on_step
        )

    run(tmp_path / "whole", "cpu")
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", "cuda", 3)
    run(tmp_path / "stopped", "cuda")
    assert steps[0] == 3, "it goes on after its checkpoint"
    whole, stopped = (outcome(LocalStorage(tmp_path / name), config, "killed") for name in ("whole", "stopped"))
    assert stopped.same_bits(whole)


# Which device a worker has


def test_a_worker_has_the_gpu_that_was_given_to_it(gpus: None) -> None:
    assert choose_device("cuda", torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert choose_device("auto", torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert choose_device("cpu", torch.device("cuda", 1)) == torch.device("cpu")
    assert alone("auto").device == torch.device("cuda", 0)


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is built without CUDA")
def test_gpus_are_asked_what_they_are_and_made_to_compute(gpus: None) -> None:
    gpu = Gpu("a pretended GPU", (9, 0), 80 * 2**30)
    assert read_cuda() == Cuda(torch.version.cuda, ("sm_90",), gpus=(gpu, gpu))
    assert read_cuda(1).gpus == (gpu,) and not faults_of_gpus(read_cuda(), offered=2)


def test_the_device_of_nvmls_counter_is_the_workers(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(energy, "nvml_counter", asked.append)
    energy.energy_meter(Workers(1, 2, torch.device("cuda", 1)))
    assert asked == [torch.device("cuda", 1)]


# What pretended GPUs refuse


REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a tensor left on the CPU": lambda gpu, cpu: gpu + cpu,
    "a tensor of another GPU": lambda gpu, cpu: gpu + cpu.to("cuda:1"),
    "numpy": lambda gpu, cpu: gpu.numpy(),
    "no deterministic kernel": lambda gpu, cpu: gpu.index_add(
        0, torch.zeros(3, dtype=torch.int64, device="cuda:0"), gpu
    ),
    "autocast of another device": lambda gpu, cpu: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_pretended_gpu_refuses_what_a_gpu_refuses(mistake: str, gpus: None) -> None:
    torch.cuda.set_device(0)
    cpu = torch.ones(3)
    gpu = cpu.to("cuda:0")
    assert isinstance(gpu, OnGpu) and (gpu + 1).device == torch.device("cuda", 0)
    with settings_of_run(exact=False), pytest.raises((RuntimeError, TypeError)):
        REFUSED[mistake](gpu, cpu)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this PyTorch was built without CUDA's kernels")
def test_torch_knows_which_operations_have_a_cuda_kernel() -> None:
    assert has_cuda_kernel("aten::convolution") and not has_cuda_kernel("aten::histogram.bin_ct")


def reduce_on_another_gpu() -> str:
    with pretended_cuda.pretended_cuda(count=2):
        torch.cuda.set_device(0)
        try:
            dist.all_reduce(torch.ones(3, device="cuda:1"))
        except RuntimeError as error:
            return str(error)
    return "nothing"


@pytest.mark.integration
def test_a_collective_of_another_gpu_than_the_current_one_is_refused() -> None:
    assert run_workers(reduce_on_another_gpu, 1) == [
        "c10d.allreduce_.default on cuda:1, but the current device is cuda:0"
    ]


def test_what_a_gpu_waits_for_is_recorded(gpus: None) -> None:
    torch.cuda.set_device(0)
    cpu = torch.ones(3)
    gpu = cpu.pin_memory().to("cuda", non_blocking=True)
    assert WAITS == []
    float(gpu.sum()), gpu.tolist(), gpu.cpu(), gpu[gpu > 0], cpu.to("cuda", non_blocking=True)
    assert WAITS == ["_local_scalar_dense", "tolist", "cpu", "index", "to"]
