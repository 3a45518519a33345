"""Energy that training takes, from the counter that each NVIDIA GPU has of its own (NVML's total energy consumption).

It is read with `pynvml`, of the package nvidia-ml-py, where that is installed; nothing else is asked of anyone for it.
The counter is that of a whole GPU, which cannot be divided among runs side by side on it. Counters of a processor are
those of all that runs on it, and cannot be divided among trials either: on a CPU the energy is unknown.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from resnet_dist.workers import Workers


@dataclass(frozen=True)
class Counter:
    """The energy counter of one GPU."""

    gpu: str
    """Names the GPU in the whole cluster: NVML's UUID."""
    read: Callable[[], float | None]
    """Joules since the driver was loaded; None if the counter does not answer."""


class EnergyMeter:
    """What the GPUs of a run's workers take between `start` and `joules`. Every worker has one."""

    def __init__(self, workers: Workers, counter: Counter | None) -> None:
        self._workers = workers
        self._counter = counter
        self._before: float | None = None

    def start(self) -> None:
        """Measure from here."""
        self._before = self._read()

    def joules(self) -> float | None:
        """What all GPUs together took since `start`, each counted once; None unless every worker's is known.

        One collective.
        """
        after = self._read()
        taken = math.nan if after is None or self._before is None else after - self._before
        # A row a worker, the others' zero: the sum brings them together. Workers may share a GPU.
        rows = torch.zeros(self._workers.size, 2, dtype=torch.float64)
        rows[self._workers.rank] = torch.tensor([_number(self._counter), taken], dtype=torch.float64)
        by_gpu = dict(self._workers.sum(rows.to(self._workers.device)).tolist())
        total = math.fsum(by_gpu.values())
        return total if math.isfinite(total) else None

    def _read(self) -> float | None:
        return self._counter.read() if self._counter else None


def _number(counter: Counter | None) -> int:
    """A number for a GPU that float64 holds without rounding."""
    return int.from_bytes(hashlib.sha256(counter.gpu.encode()).digest()[:6]) if counter else 0


def energy_meter(workers: Workers) -> EnergyMeter | None:
    """The meter of a run, on each of its workers; None where they compute on CPUs, or beside other runs."""
    if workers.device.type != "cuda" or workers.side_by_side > 1:
        return None
    return EnergyMeter(workers, nvml_counter(workers.device))


def nvml_counter(device: torch.device) -> Counter | None:
    """The counter of a CUDA device; None without nvidia-ml-py, or where the GPU has none or is split into instances."""
    try:
        import pynvml
    except ImportError:
        return None
    # By its UUID: NVML counts all GPUs of the machine, CUDA those that are visible to the process.
    gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except pynvml.NVMLError:
            return None

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu)
        if _is_split(handle):
            return None
    except pynvml.NVMLError:
        return None
    return Counter(gpu, read) if read() is not None else None


def _is_split(handle: object) -> bool:
    """Whether others may compute on the same GPU, in other instances of it (MIG), under the same counter."""
    import pynvml

    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # of a GPU that knows no instances
        return False
    return bool(mode)
