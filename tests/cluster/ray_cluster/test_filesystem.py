"""The file system in which Ray keeps its state: the S3 of runs, with all of its configuration, and no secrets."""

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow.fs
import pytest

from cluster.ray_cluster.connection import ray_storage
from cluster.storage.check import check_storage
from cluster.storage.opening import open_storage
from cluster.storage.s3 import S3Storage
from cluster.tensorboard.event_views import Copies
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, moto_server, set_environment, use_prefix_alone
from tests.s3_proxy import s3_proxy, self_signed
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


@pytest.fixture
def profile(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes endpoint and keys out of the environment, and puts a profile `lab` with these lines in their place."""

    def write(text: str) -> None:
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        (tmp_path / "config").write_text(f"[profile lab]\n{keys}{text}")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "lab")

    return write


def use(bucket: str, endpoint: str) -> None:
    """What a grid does with a bucket: what the check says of it holds for Ray's state, and for TensorBoard's copy."""
    check = check_storage(f"s3://{bucket}/x")
    assert check.failed == () and check.access.startswith(f"{endpoint}, ")
    place = ray_storage(f"s3://{bucket}/x", "grid")
    store = pickle.loads(pickle.dumps(place["storage_filesystem"]))
    with store.open_output_stream(f"{place['storage_path']}/state.json") as stream:
        stream.write(b"{}")
    assert open_storage(f"s3://{bucket}/x").get("grid/.ray/state.json") == b"{}"
    assert store.get_file_info(f"{place['storage_path']}/state.json").size == 2
    open_storage(f"s3://{bucket}/x").put("grid/tb/a/events.out.tfevents.1", b"1")
    with tempfile.TemporaryDirectory() as copies:
        Copies(open_storage(f"s3://{bucket}/x"), Path(copies)).refresh()
        assert Path(copies, "grid", "a", "events.out.tfevents.1").read_bytes() == b"1"


@pytest.mark.parametrize("lines", ["endpoint_url = {}\n", "services = s\n[services s]\ns3 =\n  endpoint_url = {}\n"])
def test_an_endpoint_in_a_profile_serves_everything(
    lines: str, bucket: str, s3_environment: str, profile: Callable[[str], None]
) -> None:
    profile(lines.format(s3_environment))
    use(bucket, s3_environment)


def test_an_endpoint_for_s3_goes_before_one_for_everything(
    bucket: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_environment)
    use(bucket, s3_environment)


def test_endpoints_that_are_to_be_ignored_are_ignored(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    storage = ray_storage(f"s3://{bucket}/x", "grid")["storage_filesystem"].handler.storage
    assert storage.endpoint() == S3Storage(f"s3://{bucket}/x").endpoint() == "https://s3.amazonaws.com"


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_an_authority_of_ones_own_serves_everything(
    where: str, bucket: str, s3_environment: str, profile: Callable[[str], None], monkeypatch: Any, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path / "store.pem")
    with s3_proxy(s3_environment, certificate) as proxy:
        if where == "profile":
            profile(f"endpoint_url = {proxy.url}\nca_bundle = {certificate}\n")
        else:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        use(bucket, proxy.url)


def test_a_proxy_serves_everything(bucket: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_proxy(s3_environment) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9")
        use(bucket, "http://localhost:9")
        passed = proxy.requests.total()
        assert passed > 0
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_environment)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        use(bucket, s3_environment)
        assert proxy.requests.total() == passed


def test_keys_that_a_program_prints_serve_everything(
    bucket: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = {"Version": 1, "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'keys.json'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    use(bucket, s3_environment)


@pytest.mark.integration
def test_a_profiles_role_serves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as endpoint:
        set_environment(endpoint, monkeypatch, tmp_path)
        boto3.session.Session().client("s3", region_name="us-east-1").create_bucket(Bucket="results")
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        (tmp_path / "config").write_text(
            "[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/results\nsource_profile = base\n"
            f"region = us-east-1\nendpoint_url = {endpoint}\n[profile base]\naws_access_key_id = {ACCESS_KEY}\n"
            f"aws_secret_access_key = {SECRET_KEY}\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "lab")
        use("results", endpoint)


def test_rays_state_that_cannot_be_written_ends_nothing_and_is_said_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = ray_storage(f"s3://{bucket}/x", "grid")
    store, root = place["storage_filesystem"], place["storage_path"]
    with monkeypatch.context() as outage:
        outage.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        outage.setenv("RESNET_DIST_STORAGE_TIMEOUT", "0.2")
        written = tmp_path / "several"
        written.mkdir()
        for number in range(8):
            (written / str(number)).write_text("{}")
        pyarrow.fs.copy_files(str(written), root, destination_filesystem=store)  # in several threads, as Tune does
        store.delete_file(f"{root}/0")
    assert caplog.text.count("Ray's own state is not kept for the time being") == 1
