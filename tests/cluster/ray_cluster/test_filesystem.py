"""The file system in which Ray keeps its state: S3 without folders, without questions about the bucket, no secrets."""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.fs
import pytest

from cluster.ray_cluster.connection import ray_storage
from cluster.storage.opening import open_storage
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, use_prefix_alone
from tests.s3_server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def test_ray_writes_below_the_experiment(tmp_path: Path) -> None:
    assert ray_storage(f"{tmp_path}/my results/", "grid") == {"storage_path": f"{tmp_path}/my results/grid/.ray"}
    place = ray_storage("s3://bucket/größe/a b", "grid")
    assert place["storage_path"] == "bucket/größe/a b/grid/.ray"


def test_it_has_what_ray_does_with_it_and_makes_no_folders(bucket: str, tmp_path: Path) -> None:
    place = ray_storage(f"s3://{bucket}/my results", "grid")
    store, root = place["storage_filesystem"], place["storage_path"]
    store.create_dir(f"{root}/run")
    assert open_storage(f"s3://{bucket}").list("") == []
    with store.open_output_stream(f"{root}/run/state.json") as stream:
        stream.write(b"{}")
    assert open_storage(f"s3://{bucket}/my results").get("grid/.ray/run/state.json") == b"{}"
    assert store.get_file_info(f"{root}/run/state.json").type == pyarrow.fs.FileType.File
    assert store.get_file_info(f"{root}/none").type == pyarrow.fs.FileType.NotFound
    (tmp_path / "copy").mkdir()
    pyarrow.fs.copy_files(f"{root}/run", str(tmp_path / "copy"), source_filesystem=store)
    assert (tmp_path / "copy" / "state.json").read_bytes() == b"{}"
    pyarrow.fs.copy_files(str(tmp_path / "copy"), f"{root}/again", destination_filesystem=store)
    with store.open_input_stream(f"{root}/again/state.json") as stream:
        assert stream.read() == b"{}"
    names = {info.path for info in store.get_file_info(pyarrow.fs.FileSelector(root, recursive=True)) if info.is_file}
    assert names == {f"{root}/run/state.json", f"{root}/again/state.json"}
    store.delete_dir(f"{root}/again")
    assert store.get_file_info(f"{root}/again/state.json").type == pyarrow.fs.FileType.NotFound


def test_its_pickle_holds_the_bucket_and_nothing_secret(bucket: str) -> None:
    store = ray_storage(f"s3://{bucket}/x", "grid")["storage_filesystem"]
    store.get_file_info(f"{bucket}/x")  # it has its keys by now
    content = pickle.dumps(store)
    assert ACCESS_KEY.encode() not in content
    assert SECRET_KEY.encode() not in content
    assert b"127.0.0.1" not in content
    assert pickle.loads(content) == store


def test_the_permissions_of_one_prefix_are_enough(
    bucket: str, ceph: S3Server, administrator: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    use_prefix_alone(ceph, administrator, bucket, "my results", monkeypatch)
    place = ray_storage(f"s3://{bucket}/my results", "grid")
    store, root = place["storage_filesystem"], place["storage_path"]
    store.create_dir(root)
    with store.open_output_stream(f"{root}/state.json") as stream:
        stream.write(b"{}")
    assert store.get_file_info(f"{root}/state.json").size == 2
    assert store.get_file_info(f"{root}/none.json").type == pyarrow.fs.FileType.NotFound
    assert store.get_file_info(f"{root}/none/none.json").type == pyarrow.fs.FileType.NotFound
