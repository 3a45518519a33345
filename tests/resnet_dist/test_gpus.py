"""Why a GPU that Ray offers cannot train is one line with a remedy. What PyTorch says is made up: no GPU is needed."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from resnet_dist.gpus import (
    ELSEWHERE,
    LEAST_MEMORY,
    REHEARSAL,
    Cuda,
    DeviceError,
    Gpu,
    assigned_device,
    faults_of_gpus,
    index_of,
    read_cuda,
)
from resnet_dist.process_group import ProcessGroupConfig, backend_of

H100 = Gpu("H100", (9, 0), 80 * 2**30)
CUDA = Cuda("13.0", ("sm_75", "sm_80", "sm_86", "sm_90"), gpus=(H100, H100))
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


def test_gpus_that_compute_have_no_faults() -> None:
    assert faults_of_gpus(CUDA, 2) == []
    assert faults_of_gpus(CUDA, 1) == [], "a node may offer fewer than it has"


@pytest.mark.parametrize(
    ("cuda", "says"),
    [
        (Cuda(None), "Ray offers 2 GPUs, and PyTorch is built without CUDA; install its CUDA build"),
        (Cuda("13.0", trouble=NO_DRIVER), "Ray offers 2 GPUs, and there is no NVIDIA driver; install it"),
        (Cuda("13.0", trouble=TOO_OLD), "the NVIDIA driver is too old for PyTorch's CUDA 13.0; update the driver"),
        (
            Cuda("13.0", trouble="system not yet initialized"),
            "PyTorch cannot use them: system not yet initialized; see",
        ),
        (replace(CUDA, gpus=(H100,)), "PyTorch sees 1; look at CUDA_VISIBLE_DEVICES, and start Ray there with --num-g"),
        (
            replace(CUDA, gpus=(H100, replace(H100, name="P100", capability=(6, 0)))),
            "P100 has compute capability 6.0, and PyTorch is built for sm_75 sm_80 sm_86 sm_90; install a build for it",
        ),
        (
            replace(CUDA, gpus=(H100, replace(H100, name="a slice", memory=LEAST_MEMORY - 1))),
            "a slice has 2.0 GiB of memory, and training takes 2; use a larger one",
        ),
        (
            replace(CUDA, gpus=(H100, replace(H100, trouble="CUDA error: uncorrectable ECC error encountered"))),
            "H100 does not compute: CUDA error: uncorrectable ECC error encountered; see what nvidia-smi says of it",
        ),
    ],
)
def test_what_keeps_a_gpu_from_training_is_one_line_with_a_remedy(cuda: Cuda, says: str) -> None:
    (fault,) = faults_of_gpus(cuda, 2)
    assert says in fault and "\n" not in fault
    assert fault.endswith((ELSEWHERE, "--num-gpus=1"))


def test_the_same_fault_of_many_gpus_is_said_once() -> None:
    assert len(faults_of_gpus(replace(CUDA, gpus=(replace(H100, memory=1),) * 8), 8)) == 1


@pytest.mark.parametrize(
    "trouble", ["CUDA out of memory. Tried to", "CUDA-capable device(s) is/are busy or unavailable"]
)
def test_a_gpu_that_others_use_at_the_moment_is_no_fault(trouble: str) -> None:
    assert faults_of_gpus(replace(CUDA, gpus=(replace(H100, trouble=trouble),)), 1) == []


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("sm_86", (8, 6), True),
        ("sm_86", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_86", (9, 0), False),
        ("compute_80", (9, 0), True),
        ("compute_90", (8, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_120a", (12, 1), False),
        ("sm_100f", (10, 3), True),
        ("sm_120", (12, 0), True),
    ],
)
def test_code_runs_on_the_gpus_that_nvidia_says(built: str, capability: tuple[int, int], runs: bool) -> None:
    cuda = Cuda("13.0", (built,), gpus=(replace(H100, capability=capability),))
    assert (faults_of_gpus(cuda, 1) == []) == runs


class Torch:
    """CUDA as PyTorch shows it, with GPUs that are made up."""

    def __init__(self, patch: pytest.MonkeyPatch, gpus: list[Gpu], trouble: str = "") -> None:
        self.computed: list[str] = []

        def init() -> None:
            if trouble:
                raise RuntimeError(trouble)

        def properties(index: int) -> Any:
            gpu = gpus[index]
            made = {"name": gpu.name, "total_memory": gpu.memory}
            return type("Properties", (), made | dict(zip(("major", "minor"), gpu.capability, strict=True)))

        def ones(_: int, device: str) -> torch.Tensor:
            self.computed.append(device)
            if said := gpus[int(device.removeprefix("cuda:"))].trouble:
                raise RuntimeError(f"{said}\nCompile with `TORCH_USE_CUDA_DSA` …")
            return torch.zeros(2)

        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
        patch.setattr(torch.cuda, "init", init)
        patch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        patch.setattr(torch.cuda, "get_device_properties", properties)
        patch.setattr(torch, "ones", ones)


def test_every_visible_gpu_is_asked_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(H100, trouble="CUDA error: an illegal instruction was encountered")
    made = Torch(monkeypatch, [H100, broken])
    assert read_cuda() == Cuda("13.0", ("sm_90",), gpus=(H100, broken))
    assert made.computed == ["cuda:0", "cuda:1"]


def test_a_worker_asks_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Torch(monkeypatch, [H100, H100, H100])
    assert read_cuda(1).gpus == (H100,)
    assert made.computed == ["cuda:1"], "a context on the others would take their memory"


def test_what_pytorch_says_of_a_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Torch(monkeypatch, [], trouble=f"{NO_DRIVER}\nfrom http://…")
    assert read_cuda() == Cuda("13.0", ("sm_90",), NO_DRIVER)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert read_cuda() == Cuda(None)


@pytest.mark.parametrize(
    ("gpu", "visible", "index"),
    [
        ("2", "2,3", 0),
        ("2", "0,1,2,3", 2),
        ("0", "3,0", 1),
        ("GPU-5f", "GPU-1a,GPU-5f", 1),
        ("3", None, 3),
        ("3", "", 3),
    ],
)
def test_a_gpus_number_is_its_place_among_the_visible_ones(gpu: str, visible: str | None, index: int) -> None:
    assert index_of(gpu, visible) == index


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray has given this process GPUs of these numbers."""

    def give(*gpus: str) -> None:
        context = type("Context", (), {"get_accelerator_ids": lambda self: {"GPU": list(gpus)}})()
        monkeypatch.setattr("ray.get_runtime_context", lambda: context)

    monkeypatch.delenv(REHEARSAL, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    return give


def test_a_worker_computes_on_the_gpu_that_ray_has_given_it(given: Any) -> None:
    given("5")
    asked: list[int] = []

    def read(index: int) -> Cuda:
        asked.append(index)
        return replace(CUDA, gpus=(H100,))

    assert assigned_device(read) == torch.device("cuda", 1)
    assert asked == [1]


def test_a_worker_without_one_computes_on_the_processor_whatever_it_can_see(given: Any) -> None:
    given()
    assert assigned_device() == torch.device("cpu")


def test_a_gpu_that_cannot_be_used_is_an_error_and_no_slow_training(given: Any) -> None:
    given("5")
    with pytest.raises(DeviceError, match=r"node \S+: Ray offers 1 GPU, and there is no NVIDIA driver") as caught:
        assigned_device(lambda index: Cuda("13.0", trouble=NO_DRIVER))
    assert "\n" not in str(caught.value)


def test_in_a_rehearsal_its_worker_computes_on_a_processor(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given("5")
    monkeypatch.setenv(REHEARSAL, "1")
    assert assigned_device() == torch.device("cpu")


class WorkerGroup:
    """Workers that say these devices, and that are asked to form a process group."""

    def __init__(self, *devices: tuple[str, str]) -> None:
        self.devices = list(devices)
        self.is_shut_down = False

    def execute(self, function: Any, *_: Any, **__: Any) -> list[tuple[str, str]] | None:
        return self.devices if function.__name__ == "_device" else None

    def shutdown(self) -> None:
        self.is_shut_down = True


@pytest.mark.parametrize(("kind", "backend"), [("cuda", "nccl"), ("cpu", "gloo")])
def test_the_process_group_is_that_of_the_workers_devices(
    kind: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train.torch import TorchConfig

    formed: list[str | None] = []
    monkeypatch.setattr(
        TorchConfig().backend_cls, "on_start", lambda self, group, config: formed.append(config.backend)
    )
    config = ProcessGroupConfig()
    workers = WorkerGroup((kind, ""), (kind, ""))
    config.backend_cls().on_start(workers, config)
    assert formed == [backend] and not workers.is_shut_down


@pytest.mark.parametrize("devices", [[("", "node a: no driver"), ("cuda", "")], [("cuda", ""), ("cuda", "")]])
def test_workers_that_form_no_process_group_leave_their_places(
    devices: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would keep them for the rest of the job, and trials would wait for them for ever."""
    from ray.train.torch import TorchConfig

    def on_start(*_: Any) -> None:
        raise ValueError("NCCL error")

    monkeypatch.setattr(TorchConfig().backend_cls, "on_start", on_start)
    workers, config = WorkerGroup(*devices), ProcessGroupConfig()
    with pytest.raises((DeviceError, ValueError), match=r"no driver|NCCL error"):
        config.backend_cls().on_start(workers, config)
    assert workers.is_shut_down


def test_what_is_wrong_with_workers_devices_is_one_error() -> None:
    with pytest.raises(DeviceError, match=r"^node a: no driver; node b: too old$"):
        backend_of([("", "node a: no driver"), ("cuda", ""), ("", "node b: too old"), ("", "node a: no driver")])
    with pytest.raises(DeviceError, match=f"some workers of the run compute on GPUs and some do not; set {REHEARSAL}"):
        backend_of([("cuda", ""), ("cpu", "")])
