"""What is asked of every node before a grid starts, and what is said of the answers."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.preflight import (
    NodeReport,
    data_is_reachable,
    faults_of,
    report_of_this_node,
    require_working_directory,
    versions_here,
)
from cluster.storage import LocalStorage
from resnet_dist.configuration import DataConfig
from resnet_dist.dataset import load_source
from resnet_dist.errors import UserError
from resnet_dist.staged_data import stage
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
    assert report_of_this_node(storage.uri, ".check-0", [source]) == (versions_here(), "", ())
    _, trouble, missing = report_of_this_node(storage.uri, ".check-1", [replace(source, source="folder:/nowhere")])
    assert "is another directory there" in trouble and missing == ("folder:/nowhere",)
    _, trouble, _ = report_of_this_node("/proc/nowhere", ".check-0", [])
    assert trouble.startswith("cannot write /proc/nowhere: "), "without the name of the node's own object"


def test_whether_a_node_can_have_the_data_is_known(source: DataConfig, storage: LocalStorage, cache: Path) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError

    assert data_is_reachable(source, storage, no_network) and data_is_reachable(DataConfig(), storage, no_network)
    gone = replace(source, source="folder:/nowhere")
    assert not data_is_reachable(gone, storage, no_network)
    cifar10 = DataConfig(source="cifar10")
    assert not data_is_reachable(cifar10, storage, no_network)
    stage("cifar10", load_source(source), storage)
    assert data_is_reachable(cifar10, storage, no_network)


def test_what_is_wrong_is_said_once_with_its_nodes_and_its_remedy() -> None:
    here = versions_here()
    fine = NodeReport("10.0.0.1 (a)", here | {"torch": here["torch"].partition("+")[0] + "+cu999"})
    old = NodeReport("10.0.0.2 (b)", here | {"torch": "1.0"})
    bare = NodeReport("10.0.0.3 (c)", here, "cannot write s3://x: access is denied", ("cifar10",))
    assert faults_of([fine, fine], here, "s3://x") == []
    faults = faults_of([fine, old, replace(old, node="10.0.0.4 (d)"), bare], here, "s3://x")
    assert faults == [
        f"node 10.0.0.2 (b), 10.0.0.4 (d): torch 1.0 is not the {here['torch']} of this process; install one version "
        "everywhere",
        "node 10.0.0.3 (c): cannot write s3://x: access is denied",
        "node 10.0.0.3 (c): data cifar10 is neither there nor can it be downloaded; put it into storage once with "
        "`resnet-dist data stage cifar10 s3://x`",
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
