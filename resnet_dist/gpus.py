"""The NVIDIA GPUs that Ray offers, and what PyTorch can do with them: why one cannot train, in one line with a remedy.

Ray counts what the driver lists, or what `ray start --num-gpus` says, and does not ask what PyTorch can do.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from resnet_dist.errors import UserError, first_line

REHEARSAL = "RESNET_DIST_REHEARSE_GPUS"
"""Variable of a node's Ray: if it is 1, workers that are given a GPU compute on a processor instead. All else is as on
GPUs, so that a grid can be tried on machines that have none (`ray start --num-gpus=4`)."""

LEAST_MEMORY = 2 * 2**30
"""Bytes of a GPU that training needs: CUDA's context and libraries, the images of CIFAR, a small batch."""

ELSEWHERE = "or give run.device cpu, or start Ray there with --num-gpus=0"


class DeviceError(UserError):
    """A worker cannot compute on the GPU that Ray has given it."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as PyTorch sees it."""

    name: str
    capability: tuple[int, int]
    """NVIDIA's compute capability, (9, 0) of an H100."""
    memory: int
    """Bytes, whoever uses them."""
    trouble: str = ""
    """What a computation failed with."""


@dataclass(frozen=True)
class Cuda:
    """What PyTorch says of CUDA in a process."""

    version: str | None
    """Of CUDA, for which PyTorch is built; None if it is built without."""
    architectures: tuple[str, ...] = ()
    """For which it is built: `sm_90`, or `compute_90` from which the driver can compile for later ones."""
    trouble: str = ""
    """Why it can use no GPU, in its own words."""
    gpus: tuple[Gpu, ...] = ()


def is_rehearsal() -> bool:
    """Whether GPUs of this process are rehearsed on processors."""
    return os.environ.get(REHEARSAL) == "1"


def read_cuda(index: int | None = None) -> Cuda:
    """Ask PyTorch, and compute something on one of the GPUs that are visible to this process, or on each."""
    version, architectures = torch.version.cuda, tuple(torch.cuda.get_arch_list())
    if version is None:
        return Cuda(None)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is told here in one line
            torch.cuda.init()
            visible = range(torch.cuda.device_count())
            gpus = tuple(_gpu(number) for number in visible if index in (None, number))
    except RuntimeError as error:
        return Cuda(version, architectures, first_line(error))
    return Cuda(version, architectures, gpus=gpus)


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    trouble = ""
    try:
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        trouble = first_line(error)
    return Gpu(properties.name, (properties.major, properties.minor), properties.total_memory, trouble)


def gpu_memory() -> int:
    """Bytes of the smallest GPU that this process can see; 0 if it sees none, or rehearses them."""
    if is_rehearsal() or not torch.cuda.is_available():
        return 0
    sizes = (torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))
    return min(sizes, default=0)


def faults_of_gpus(cuda: Cuda, offered: int) -> list[str]:
    """What keeps a machine from training on as many GPUs as Ray offers there, a line each with what to do."""
    promised = f"Ray offers {offered} GPU{'' if offered == 1 else 's'}"
    if cuda.version is None:
        return [f"{promised}, and PyTorch is built without CUDA; install its CUDA build, {ELSEWHERE}"]
    if "driver" in cuda.trouble and "too old" in cuda.trouble:
        return [
            f"{promised}, and the NVIDIA driver is too old for PyTorch's CUDA {cuda.version}; update the driver, "
            f"{ELSEWHERE}"
        ]
    if "no NVIDIA driver" in cuda.trouble:
        return [f"{promised}, and there is no NVIDIA driver; install it, {ELSEWHERE}"]
    if cuda.trouble:
        return [f"{promised}, and PyTorch cannot use them: {cuda.trouble}; see what nvidia-smi says, {ELSEWHERE}"]
    faults = []
    if len(cuda.gpus) < offered:
        faults.append(
            f"{promised}, and PyTorch sees {len(cuda.gpus)}; look at CUDA_VISIBLE_DEVICES, and start Ray there with "
            f"--num-gpus={len(cuda.gpus)}"
        )
    return faults + list(dict.fromkeys(fault for gpu in cuda.gpus if (fault := fault_of_gpu(gpu, cuda))))


def fault_of_gpu(gpu: Gpu, cuda: Cuda) -> str:
    """What keeps one GPU from training, with what to do; empty if nothing does."""
    if not any(_runs_on(architecture, gpu.capability) for architecture in cuda.architectures):
        return (
            f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}, and PyTorch is built for "
            f"{' '.join(cuda.architectures)}; install a build for it, {ELSEWHERE}"
        )
    if gpu.memory < LEAST_MEMORY:
        return (
            f"{gpu.name} has {gpu.memory / 2**30:.1f} GiB of memory, and training takes {LEAST_MEMORY / 2**30:.0f}; "
            f"use a larger one, {ELSEWHERE}"
        )
    # Another job's trials may have all of it at the moment: Ray gives it to ours when they are done.
    if gpu.trouble and "out of memory" not in gpu.trouble and "busy or unavailable" not in gpu.trouble:
        return f"{gpu.name} does not compute: {gpu.trouble}; see what nvidia-smi says of it, {ELSEWHERE}"
    return ""


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture runs on a GPU: sm_86 on 8.6 and 8.9, compute_80 on 8.0 and all later ones.

    Letters: sm_90a runs on 9.0 alone, sm_100f on the later ones of its family.
    """
    kind, _, number = architecture.partition("_")
    specific = number.endswith("a")
    digits = int(number.rstrip("af"))
    built = divmod(digits, 10)
    if specific:
        return built == capability
    return built <= capability and (kind == "compute" or built[0] == capability[0])


def assigned_device(read: Callable[[int], Cuda] = read_cuda) -> torch.device:
    """The device that Ray has given this process: its first GPU, else the processor, whatever GPUs it can see.

    Raises a `DeviceError` of one line if PyTorch cannot use that GPU.
    """
    import ray

    gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return device_of(gpus[0], read) if gpus else torch.device("cpu")


def device_of(gpu: str, read: Callable[[int], Cuda] = read_cuda) -> torch.device:
    """The device that Ray calls so on this node; a `DeviceError` of one line if PyTorch cannot use it."""
    import ray

    if is_rehearsal():
        return torch.device("cpu")
    index = index_of(gpu, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if faults := faults_of_gpus(read(index), offered=1):
        raise DeviceError(f"node {ray.util.get_node_ip_address()}: {faults[0]}")
    return torch.device("cuda", index)


def index_of(gpu: str, visible: str | None) -> int:
    """PyTorch's number of a GPU in a process with this CUDA_VISIBLE_DEVICES, which may list others, in any order."""
    return visible.split(",").index(gpu) if visible else int(gpu)
