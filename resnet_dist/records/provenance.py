"""Where a number comes from: source code, library versions, machines, data, and what decides how numbers round.

Nothing here reads the environment's variables, where credentials live.
"""

import hashlib
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from resnet_dist.installed_packages import version
from resnet_dist.records.git_state import running_source
from resnet_dist.workers import Workers


def now() -> str:
    """The time, in UTC, to the second: 2026-01-31T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe(workers: Workers, data_fingerprint: str) -> dict[str, Any]:
    """What `provenance.json` says of the code, the libraries, this worker's machine and the data."""
    source = running_source()
    cuda = workers.device.type == "cuda"
    return {
        "commit": source.commit,
        "dirty": source.dirty,
        "commit_from": source.origin,
        "patch_sha256": hashlib.sha256(source.patch).hexdigest() if source.patch else None,
        "patch_left_out": list(source.left_out),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "ray": version("ray"),
        **machine(workers),
        "workers": workers.size,
        "threads": torch.get_num_threads(),
        **({"side_by_side": workers.side_by_side} if workers.side_by_side > 1 else {}),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "data_fingerprint": data_fingerprint,
    }


def machine(workers: Workers) -> dict[str, str]:
    """Name of this worker's host, and of the processor or GPU that it computes on."""
    cuda = workers.device.type == "cuda"
    return {
        "host": platform.node(),
        "device": torch.cuda.get_device_name(workers.device) if cuda else _processor(),
    }


def machines(workers: Workers) -> list[dict[str, str]]:
    """`machine` of every worker, in order of rank, on every worker; a collective."""
    return workers.all(machine(workers))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
