"""What is asked of every node before a grid starts, and what is said of the answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.ray_cluster.connection import resources_of
from cluster.ray_cluster.preflight import (
    NodeReport,
    Part,
    check_cluster,
    data_is_reachable,
    faults_of,
    gpu_troubles_here,
    part_of,
    report_of_this_node,
    require_working_directory,
    versions_here,
)
from cluster.storage.local import LocalStorage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import load_source
from resnet_dist.data.staged import stage
from resnet_dist.errors import UserError
from resnet_dist.gpus import REHEARSAL, Cuda
from tests.image_trees import image_tree, write_directory


@pytest.fixture
def source(tmp_path: Path) -> DataConfig:
    folder = write_directory(tmp_path / "images", image_tree())
    return DataConfig(source=f"folder:{folder}", batch_size=2)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "results")


def test_a_node_with_another_directory_as_storage_is_found(storage: LocalStorage, source: DataConfig) -> None:
    storage.put(".check-0", b"a launch wrote this")
    assert report_of_this_node(storage.uri, ".check-0", Part((source,), 0)) == (versions_here(), "", (), (), 0)
    gone = Part((replace(source, source="folder:/nowhere"),), 0)
    _, trouble, missing, *_ = report_of_this_node(storage.uri, ".check-1", gone)
    assert "is another directory there" in trouble and missing == ("folder:/nowhere",)
    _, trouble, *_ = report_of_this_node("/proc/nowhere", ".check-0", Part((), 0))
    assert trouble.startswith("cannot write /proc/nowhere: "), "without the name of the node's own object"


def test_whether_a_node_can_have_the_data_is_known(source: DataConfig, storage: LocalStorage, cache: Path) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError

    assert data_is_reachable(source, storage, no_network) and data_is_reachable(DataConfig(), storage, no_network)
    gone = replace(source, source="folder:/nowhere")
    assert not data_is_reachable(gone, storage, no_network)
    cifar10 = DataConfig(source="cifar10")
    assert not data_is_reachable(cifar10, storage, no_network)
    stage(cifar10, load_source(source), storage)
    assert data_is_reachable(cifar10, storage, no_network)


def test_what_is_wrong_is_said_once_with_its_nodes_and_its_remedy() -> None:
    here = versions_here()
    fine = NodeReport("10.0.0.1 (a)", here | {"torch": here["torch"].partition("+")[0] + "+cu999"})
    old = NodeReport("10.0.0.2 (b)", here | {"torch": "1.0"})
    bare = NodeReport("10.0.0.3 (c)", here, "cannot write s3://x: access is denied", ("cifar10",))
    dark = NodeReport("10.0.0.5 (e)", here, gpu_troubles=("Ray offers 2 GPUs, and there is no driver; install it",))
    assert faults_of([fine, fine], here, "s3://x") == []
    faults = faults_of([fine, old, replace(old, node="10.0.0.4 (d)"), bare, dark], here, "s3://x")
    assert faults == [
        f"node 10.0.0.2 (b), 10.0.0.4 (d): torch 1.0 is not the {here['torch']} of this process; install one version "
        "everywhere",
        "node 10.0.0.3 (c): cannot write s3://x: access is denied",
        "node 10.0.0.3 (c): data cifar10 is neither there nor can it be downloaded; put it into storage once with "
        "`resnet-dist data stage cifar10 s3://x`",
        "node 10.0.0.5 (e): Ray offers 2 GPUs, and there is no driver; install it",
    ]


def test_a_job_whose_directory_other_nodes_have_replaced_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = tmp_path / "upload"
    upload.mkdir()
    monkeypatch.chdir(upload)
    require_working_directory()
    upload.rmdir()
    upload.mkdir()
    with pytest.raises(UserError, match="share Ray's temporary directory; start Ray on each node with a --temp-dir"):
        require_working_directory()
    monkeypatch.chdir(tmp_path)  # the patch goes back to where it began, which is there


HEAD = {"CPU": 0.0, "trial_driver": 8.0}
CPUS = {"CPU": 8.0}
GPUS = {"CPU": 8.0, "GPU": 2.0}
GIB = 2**30
GPUS_ALONE = {"GPU": 2.0}


@pytest.mark.parametrize(
    ("node", "uses_gpu", "trains", "gpus"),
    [
        (HEAD, {True}, False, 0),
        (HEAD, {False}, False, 0),
        (CPUS, {True}, False, 0),
        (CPUS, {False}, True, 0),
        (CPUS, {True, False}, True, 0),
        (GPUS, {True}, True, 2),
        (GPUS, {False}, True, 0),
        (GPUS, {True, False}, True, 2),
        (GPUS_ALONE, {True}, False, 0),
    ],
)
def test_a_node_is_asked_for_what_it_is_there_for(
    node: dict[str, float], uses_gpu: set[bool], trains: bool, gpus: int, source: DataConfig
) -> None:
    """Of a mixed cluster, trials on GPUs use the nodes that have some, and nothing is asked of the others' GPUs."""
    assert part_of(node, [source], uses_gpu) == Part((source,) if trains else (), gpus)


def test_gpus_are_looked_at_where_trials_use_them_and_nowhere_else(storage: LocalStorage) -> None:
    asked: list[int] = []

    def troubles(offered: int) -> list[str]:
        asked.append(offered)
        return ["the driver is too old"]

    storage.put(".check-0", b"a launch wrote this")
    assert report_of_this_node(storage.uri, ".check-0", Part((), 0), troubles)[3] == ()
    assert report_of_this_node(storage.uri, ".check-0", Part((), 4), troubles)[3] == ("the driver is too old",)
    assert asked == [4]


def test_in_a_rehearsal_gpus_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_dist.gpus.read_cuda", lambda: Cuda(None))
    assert "PyTorch is built without CUDA" in gpu_troubles_here(2)[0]
    monkeypatch.setenv(REHEARSAL, "1")
    assert gpu_troubles_here(2) == []


@pytest.mark.parametrize(
    ("ours", "device", "asked"),
    [(True, "cpu", False), (True, "cuda", True), (True, "auto", True), (False, "cpu", True), (False, "cuda", True)],
)
def test_this_machine_alone_is_asked_if_its_gpus_are_used(
    ours: bool, device: str, asked: bool, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def answered(storage: LocalStorage, parts: Any, nodes: Any) -> list[NodeReport]:
        seen.append(parts)
        return [NodeReport("a"), NodeReport("b", gpu_memory=2 * GIB), NodeReport("c", gpu_memory=GIB)]

    monkeypatch.setattr("cluster.ray_cluster.preflight.check_nodes", answered)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "NodeID": "a", "Resources": GPUS}])
    config = TrainingConfig().override({"run.device": device, "run.workers": 2})
    found = check_cluster(storage, [config], resources_of([GPUS], {}, is_ours=ours), pytest.fail)
    assert found.gpu_memory == (GIB if asked else 0)
    assert seen == ([{"a": Part((config.data,), 2 if device != "cpu" else 0)}] if asked else [])


def test_too_few_places_are_found_before_any_node_is_asked(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_DIST_WORKERS_SECONDS", "0")
    config = TrainingConfig().override({"run.device": "cuda", "run.workers": 4})
    with pytest.raises(UserError, match="4 workers need 4 GPUs and the cluster has 2 GPUs"):
        check_cluster(storage, [config], resources_of([CPUS, GPUS], {}, is_ours=False), pytest.fail)
