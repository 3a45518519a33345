"""The Ray cluster that a command uses: the one it runs on, one given by address, or a local one of its own."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.ray_cluster import own_ray
from cluster.ray_cluster.address import cluster_address, reason, require_ray, unprinted
from cluster.signals import uninterrupted
from resnet_dist.errors import UserError, first_line
from resnet_dist.paths import absolute, require_utf8

LOGGER = logging.getLogger(__name__)

DRIVER_RESOURCE = "trial_driver"
"""Custom resource of the nodes on which the processes that start worker groups are to run: those that stay."""


def ray_storage(uri: str, experiment: str) -> dict[str, Any]:
    """Where Ray keeps its own state of an experiment's runs, as arguments of Ray's `RunConfig`."""
    place = f"{uri.rstrip('/')}/{experiment}/.ray"
    if not place.startswith("s3://"):
        return {"storage_path": place}
    from cluster.ray_cluster.filesystem import bucket_filesystem

    path = place.removeprefix("s3://")
    return {"storage_path": path, "storage_filesystem": bucket_filesystem(path.partition("/")[0])}


@dataclass(frozen=True)
class Resources:
    """What a cluster has in total, or can have where an autoscaler adds nodes."""

    cpus: int
    """Workers that find a CPU."""
    gpus: int
    nodes: int
    driver_slots: int = 0
    """Places for processes that start worker groups, where the cluster offers them (resource `trial_driver`)."""
    is_ours: bool = True
    """Whether the cluster was started on this machine by this process."""
    gpu_workers: int | None = None
    """Workers that find a GPU and a CPU on one node; None if that is as many as GPUs."""
    gpu_memory: int = 0
    """Bytes of the smallest GPU; 0 as long as no node has been asked."""

    def uses_gpu(self, device: str) -> bool:
        """Whether workers of a run with this `run.device` are to have GPUs: `auto` takes them where there are any."""
        return device == "cuda" or (device == "auto" and self.gpus > 0)

    def workers(self, use_gpu: bool) -> int:
        """Places for workers, each with one CPU and, on GPUs, one GPU."""
        return self.cpus if not use_gpu else self.gpus if self.gpu_workers is None else self.gpu_workers

    def require_workers(self, workers: int, use_gpu: bool) -> None:
        """Raise a `UserError` unless `workers` workers fit, each with one CPU and, on GPUs, one GPU."""
        places, have, kind = self.workers(use_gpu), self.gpus if use_gpu else self.cpus, "GPU" if use_gpu else "CPU"
        if workers <= places:
            return
        wanted = f"run.workers: {workers} worker{' needs' if workers == 1 else 's need'} {workers} {kind}{_s(workers)}"
        fewer = f"give run.workers {places} or fewer, or " if places else ""
        remedy = f"{fewer}add nodes{', or give run.device cpu' if use_gpu else ''}"
        if not have:
            raise UserError(f"{wanted} and the cluster has none; {remedy}")
        if workers <= have:
            raise UserError(
                f"{wanted}, each with a CPU of its node, and the cluster has {places} such; start Ray there with a "
                f"higher --num-cpus, or {remedy}"
            )
        raise UserError(f"{wanted} and the cluster has {have} {kind}{_s(have)}; {remedy}")


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def living_nodes() -> list[dict[str, Any]]:
    """The nodes of the connected cluster, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def places_of_node(resources: Mapping[str, float], use_gpu: bool) -> int:
    """Workers that a node of these resources holds, each with one CPU and, on GPUs, one GPU."""
    cpus = int(resources.get("CPU", 0))
    return min(cpus, int(resources.get("GPU", 0))) if use_gpu else cpus


@contextmanager
def connected(address: str | None = None) -> Iterator[Resources]:
    """Connect to a cluster for the duration of the block.

    With neither `address` nor RAY_ADDRESS (which `ray job submit` sets) a local cluster is started, and stopped at
    the end.
    """
    # Quiet what Ray says by default on every start; errors still come through.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our own event files go to tb/
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a banner even when told to be silent
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)  # in a notebook it asks for ipywidgets
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"  # the workers are of this kind, whatever other programs here use
    # Tune's own handler ends one run of Tune and lets the program go on to the next one.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    _require_utf8_directories()
    address = address or cluster_address()  # before Ray is there, which looks at once whether a token is wanted
    import ray

    _keep_errors_to_the_log()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _connect(address)
        else:
            own_ray.start()
        # Ray's own handler exits where it stands; the caller's, by which a stopped job unwinds, stays in force.
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    except UserError:
        ray.shutdown()
        raise
    except Exception as error:  # Ray raises bare ones, too: its own node did not start within half a minute
        first = first_line(error).rstrip(".")
        remedy = "; try again when the machine is less busy" if own_ray.TIMED_OUT in str(error) else ""
        raise UserError(f"cannot start Ray on this machine: {first}{remedy}") from error
    try:
        yield present_resources(is_ours=not address)
    finally:
        with uninterrupted():
            ray.shutdown()


def _keep_errors_to_the_log() -> None:
    """Ray prints what its nodes complain of in colours, workers that die above all, of whom `watch` says more."""
    from ray._private import worker

    def log(data: dict[str, Any], *_: Any, **__: Any) -> None:
        LOGGER.info("%s: %s", data.get("pid"), " ".join(data["lines"]))

    worker.print_to_stdstream = log


def _connect(address: str) -> None:
    import ray

    with unprinted() as said:
        try:
            require_ray(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:
            raise UserError(f"cannot connect to the Ray cluster at {address}: {reason(error, said())}") from error


def _require_utf8_directories() -> None:
    """Ray puts them into messages of its own, which are UTF-8, and says only afterwards that it cannot."""
    require_utf8(os.getcwd(), "the working directory")  # noqa: PTH109
    require_utf8(tempfile.gettempdir(), "TMPDIR")
    require_utf8(str(absolute("~", "HOME")), "HOME")
    require_utf8(sys.executable, "the path of Python")


def present_resources(is_ours: bool) -> Resources:
    """What the connected cluster has at this moment, or can have where an autoscaler adds nodes."""
    return resources_of([node["Resources"] for node in living_nodes()], _autoscaled(), is_ours)


def resources_of(nodes: Sequence[Mapping[str, float]], autoscaled: Mapping[str, float], is_ours: bool) -> Resources:
    """What nodes of these resources have together, or what an autoscaler brings them to at most."""

    def total(name: str) -> int:
        return int(max(sum(node.get(name, 0) for node in nodes), autoscaled.get(name, 0)))

    def workers(use_gpu: bool) -> int:
        # Of nodes that are to come only the sum is known.
        return max(sum(places_of_node(node, use_gpu) for node in nodes), places_of_node(autoscaled, use_gpu))

    return Resources(workers(False), total("GPU"), len(nodes), total(DRIVER_RESOURCE), is_ours, workers(True))


def _autoscaled() -> dict[str, float]:
    """The most that the cluster's autoscaler may bring it to; empty without one."""
    from ray._private.state import state

    return {name: float(most) for name, most in (state.get_max_resources_from_cluster_config() or {}).items()}
