"""Before anything starts on a cluster, of one node or of many: can every node do its part?

One small task on each node uses the storage and says its versions; where trials will train it looks for the data, too,
and where they will do so on GPUs it computes on each of them. Each thing that is wrong becomes a line with its remedy;
nothing has been written or trained then.
"""

import json
import os
import platform
import re
import secrets
import shlex
import socket
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.ray_cluster.connection import Resources, living_nodes, places_of_node
from cluster.ray_cluster.registration import awaited
from cluster.storage.keys import probe
from cluster.storage.opening import open_storage
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.installed_packages import version
from resnet_dist.storage.interface import Storage

PACKAGES = ("ray", "torch", "torchvision", "numpy")
"""Whose versions must be the same everywhere: trials move from node to node, and their numbers must not."""
PATIENCE = 300.0
"""Seconds in which every node must have answered; each starts a process for it."""
CLIENT_VARIABLE = "RESNET_DIST_CLIENT_VERSIONS"
"""Through which `submit` tells the job the versions of the client."""
DOWNLOAD_HOST = ("www.cs.toronto.edu", 443)


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself."""

    node: str
    """Its address and host name."""
    versions: dict[str, str] = field(default_factory=dict)
    storage_trouble: str = ""
    missing_data: tuple[str, ...] = ()
    """Sources that it neither has nor can get."""
    gpu_troubles: tuple[str, ...] = ()
    """Why it cannot train on the GPUs that Ray offers there."""
    gpu_memory: int = 0
    """Bytes of its smallest GPU; 0 if trials do not train on any there."""


@dataclass(frozen=True)
class Part:
    """What a node is there for."""

    sources: tuple[DataConfig, ...]
    """Data on which trials may train there."""
    gpus: int
    """GPUs on which they may do so."""


def check_cluster(
    storage: Storage, runs: Sequence[TrainingConfig], resources: Resources, say: Callable[[str], None]
) -> Resources:
    """Raise a `UserError` unless the connected cluster has places for the largest of these runs and can train them.

    Workers that are about to join are waited for, of which `say` is told. Returns what the cluster has then. The runs'
    data have their fingerprints. A cluster of this machine alone, started by this process, has nothing that could
    differ, but GPUs that may be unfit.
    """
    resources = awaited(runs, resources, say)
    uses_gpu = {resources.uses_gpu(config.run.device) for config in runs}
    if resources.is_ours and uses_gpu <= {False}:
        return resources
    sources = {config.data.source: config.data for config in runs}
    nodes = living_nodes()
    reports = check_nodes(
        storage, {node["NodeID"]: part_of(node["Resources"], sources.values(), uses_gpu) for node in nodes}, nodes
    )
    memory = min((report.gpu_memory for report in reports if report.gpu_memory), default=0)
    return replace(resources, gpu_memory=memory)


def part_of(resources: Mapping[str, float], sources: Iterable[DataConfig], uses_gpu: Collection[bool]) -> Part:
    """The part of a node of these resources in runs of which some, or all, use GPUs, or none."""
    trains = any(places_of_node(resources, use_gpu) for use_gpu in uses_gpu)
    gpus = int(resources.get("GPU", 0)) if True in uses_gpu and places_of_node(resources, True) else 0
    return Part(tuple(sources) if trains else (), gpus)


def check_nodes(storage: Storage, parts: Mapping[str, Part], nodes: Sequence[Mapping[str, Any]]) -> list[NodeReport]:
    """What the nodes of the connected cluster say; a `UserError` of one line a fault unless all can do their parts."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    key = f".check-{secrets.token_hex(8)}"
    storage.put(key, b"a launch looks whether every node sees this")
    try:
        # With GPUs the process ends with the task, and with it what it holds of them; else a trial may go on in it.
        calls = 1 if any(part.gpus for part in parts.values()) else 0
        ask = ray.remote(num_cpus=0, max_retries=0, max_calls=calls)(report_of_this_node)
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                storage.uri, key, parts[node["NodeID"]]
            ): f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            for node in nodes
        }
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)
        require_working_directory()
        reports, faults = [], [f"node {asked[one]} does not answer; remove it, or restart its Ray" for one in silent]
        for one in answered:
            try:
                reports.append(NodeReport(asked[one], *ray.get(one)))
            except ray.exceptions.RayError as error:
                faults.append(_failed(asked[one], error))
    finally:
        storage.delete(key)
    client = os.environ.get(CLIENT_VARIABLE)
    if client:
        reports.append(NodeReport("that submitted this", json.loads(client)))
    faults += faults_of(reports, versions_here(), storage.uri)
    if faults:
        raise UserError("; ".join(faults))
    return reports


def require_working_directory() -> None:
    """Raise a `UserError` if the directory in which this process runs is gone.

    A node that runs a job's code for the first time clears the place for the upload, below Ray's temporary directory.
    If nodes share that, the job's own directory has been replaced once all have answered.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError(
            "other nodes have replaced this job's directory, since they share Ray's temporary directory; start Ray on "
            "each node with a --temp-dir of its own"
        ) from None


def faults_of(reports: Sequence[NodeReport], here: dict[str, str], storage_uri: str) -> list[str]:
    """A line for each thing that is wrong, with the nodes where it is, and what to do."""
    faults: defaultdict[str, list[str]] = defaultdict(list)
    for report in reports:
        for name, ours in here.items():
            there = report.versions.get(name, "")
            if _release(there) != _release(ours):
                what = f"{name} {there or 'missing'} is not the {ours} of this process"
                faults[f"{what}; install one version everywhere"].append(report.node)
        if report.storage_trouble:
            faults[report.storage_trouble].append(report.node)
        for source in report.missing_data:
            faults[
                f"data {source} is neither there nor can it be downloaded; put it into storage once with "
                f"`resnet-dist data stage {shlex.quote(source)} {shlex.quote(storage_uri)}`"
            ].append(report.node)
        for trouble in report.gpu_troubles:
            faults[trouble].append(report.node)
    return [f"node {', '.join(nodes)}: {fault}" for fault, nodes in faults.items()]


def report_of_this_node(
    storage_uri: str, key: str, part: Part, gpu_troubles: Callable[[int], list[str]] | None = None
) -> tuple[Any, ...]:
    """Runs on each node: the fields of its `NodeReport`, but for its name."""
    storage = open_storage(storage_uri)
    trouble = ""
    missing: tuple[str, ...] = ()
    try:
        probe(storage)  # as patient as runs are: the store is asked by all nodes at once
        if storage.get(key) is None:
            trouble = f"storage {storage_uri} is another directory there; give one that all nodes share, or s3://…"
        missing = tuple(data.source for data in part.sources if not data_is_reachable(data, storage))
    except UserError as error:
        trouble = re.sub(r"/?\.check-[0-9a-f]+", "", str(error))  # so that the same trouble reads the same everywhere
    gpus, memory = tuple[str, ...](), 0
    if part.gpus:
        from resnet_dist.gpus import gpu_memory

        gpus, memory = tuple((gpu_troubles or gpu_troubles_here)(part.gpus)), gpu_memory()
    return versions_here(), trouble, missing, gpus, memory


def gpu_troubles_here(offered: int) -> list[str]:
    """Why this machine cannot train on as many GPUs as Ray offers here; nothing where they are rehearsed."""
    from resnet_dist.gpus import faults_of_gpus, is_rehearsal, read_cuda

    return [] if is_rehearsal() else faults_of_gpus(read_cuda(), offered)


def versions_here() -> dict[str, str]:
    """Versions of this process's Python and of the packages on which numbers depend."""
    return {"Python": platform.python_version(), **{name: version(name) or "" for name in PACKAGES}}


def _release(version: str) -> str:
    """Without what tells builds for CPUs and GPUs apart: 2.14.1 of 2.14.1+cpu."""
    return version.partition("+")[0]


def data_is_reachable(
    data: DataConfig, storage: Storage, connect: Callable[..., Any] = socket.create_connection
) -> bool:
    """Whether this host has a data source, decoded or not, or can get it from storage or the network."""
    from resnet_dist.data.staged import is_at_hand, is_staged

    if is_at_hand(data) or is_staged(data, storage):
        return True
    if data.source.startswith("folder:"):
        return False
    if is_custom(data.source):
        return True  # it may give its images there; what it lacks shows when it is called
    try:
        connect(DOWNLOAD_HOST, timeout=5).close()
    except OSError:
        return False
    return True


def _failed(node: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines[-1] if lines else type(error).__name__)[:200]
    return f"node {node}: cannot run this code ({reason}); install this package's dependencies there, or use its image"
