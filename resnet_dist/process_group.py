"""The process group of a run's Ray Train workers: its backend follows from the devices that the workers have."""

from dataclasses import dataclass, replace
from typing import Any

from ray.train.torch import TorchConfig

from resnet_dist.gpus import REHEARSAL, DeviceError, assigned_device

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
"""What torch.distributed computes with on each kind of device."""


@dataclass
class ProcessGroupConfig(TorchConfig):
    """Ray's own, but that the workers, not the driver, say what the backend is."""

    @property
    def backend_cls(self) -> type:
        """What forms the process group, in the process that controls the workers."""
        return _ProcessGroup


class _ProcessGroup(TorchConfig().backend_cls):  # type: ignore[misc]  # its class has no public name
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Form the group. Raises a `DeviceError` if a worker cannot use its device, or their kinds differ."""
        try:
            backend = backend_of(worker_group.execute(_device))
            super().on_start(worker_group, replace(backend_config, backend=backend))
        except Exception:
            worker_group.shutdown()  # Ray forgets workers that fail here, and no other trial would get their places
            raise


def backend_of(devices: list[tuple[str, str]]) -> str:
    """The backend for workers of which each says the kind of its device, or what is wrong with it.

    Raises a `DeviceError` with all that is wrong.
    """
    if troubles := [trouble for _, trouble in devices if trouble]:
        raise DeviceError("; ".join(dict.fromkeys(troubles)))
    kinds = {kind for kind, _ in devices}
    if len(kinds) > 1:
        raise DeviceError(
            f"some workers of the run compute on GPUs and some do not; set {REHEARSAL} on all nodes or on none"
        )
    return BACKENDS[kinds.pop()]


def _device() -> tuple[str, str]:
    """On each worker."""
    try:
        return assigned_device().type, ""
    except DeviceError as error:
        return "", str(error)
