"""Stores differ: addressing, overload, certificates, ways to log in, what they keep. What a store may be like."""

import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from cluster.storage import s3
from cluster.storage.check import check_storage
from cluster.storage.opening import open_storage
from cluster.storage.s3 import DEFAULT_TIMEOUT, TIMEOUT_VARIABLE, S3Storage
from resnet_dist.errors import StorageError
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, moto_server, set_environment, use_prefix_alone
from tests.s3_proxy import S3Proxy, s3_proxy, self_signed
from tests.s3_server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@pytest.fixture
def proxy(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    with s3_proxy(s3_environment) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Content that takes three parts, which are as small as S3 allows."""
    monkeypatch.setattr(s3, "MULTIPART_BYTES", 6 * 2**20)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    return os.urandom(11 * 2**20)


def test_every_operation_comes_through_a_store_that_is_overloaded(
    bucket: str, proxy: S3Proxy, small_parts: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None, time=time.time)
    monkeypatch.setattr(s3, "time", clock)
    turns = itertools.count()
    proxy.refuse = lambda method, path: 503 if next(turns) % 3 == 0 else 0
    storage = open_storage(f"s3://{bucket}/x")
    storage.put("a", b"1")
    assert storage.create("b", b"2") is True
    assert storage.create("b", b"3") is False
    storage.put("large", small_parts)
    assert [item.key for item in storage.list("")] == ["a", "b", "large"]
    assert (storage.get("a"), storage.get("b"), storage.get("none")) == (b"1", b"2", None)
    assert storage.get("large") == small_parts
    storage.delete("a")
    assert storage.get("a") is None


def test_pauses_grow_are_drawn_at_random_and_end_at_the_deadline(
    bucket: str, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    # Its own clock alone: other threads of this process have theirs.
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep, time=time.time)
    monkeypatch.setattr(s3, "time", clock)
    proxy.refuse = lambda method, path: 503
    with pytest.raises(StorageError, match=r"overloaded or out of order \(Refused, status 503\); try again later"):
        S3Storage(f"s3://{bucket}", timeout=30).put("a", b"1")
    assert 15 < sum(pauses) <= 30
    assert len(set(pauses)) == len(pauses) == proxy.requests["PUT"] - 1
    assert all(pause <= min(0.1 * 2**number, 5.0) for number, pause in enumerate(pauses))


def test_an_upload_whose_part_is_refused_leaves_nothing_and_what_was_there_stays(
    bucket: str, proxy: S3Proxy, small_parts: bytes, administrator: "S3Client"
) -> None:
    storage = open_storage(f"s3://{bucket}")
    storage.put("model.pt", b"old")
    proxy.refuse = lambda method, path: 403 if "partNumber=2" in path else 0
    with pytest.raises(StorageError, match="these credentials need s3:PutObject"):
        storage.put("model.pt", small_parts)
    with pytest.raises(StorageError):
        storage.put("new.pt", small_parts)
    assert storage.get("model.pt") == b"old"
    assert storage.get("new.pt") is None
    assert "Uploads" not in administrator.list_multipart_uploads(Bucket=bucket)


def test_nothing_is_sent_that_a_store_without_trailing_checksums_refuses(
    bucket: str, proxy: S3Proxy, small_parts: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checksums() -> set[str]:
        storage = open_storage(f"s3://{bucket}")
        proxy.headers.clear()
        storage.put("a", b"1")
        storage.create("b", b"1")
        storage.put("large", small_parts)
        return {name for name in proxy.headers if "checksum" in name or "trailer" in name}

    assert checksums() == set()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")  # who wants them, gets them
    assert "x-amz-checksum-crc32" in checksums()


def test_a_bucket_may_stand_in_the_host_name(
    bucket: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = int(s3_environment.rpartition(":")[2])
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if str(host).endswith(".localhost") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    config = tmp_path / "config"
    config.write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{port}")
    check = check_storage(f"s3://{bucket}/x")
    assert check.failed == ()
    assert "virtual-host addressing" in check.access
    storage = open_storage(f"s3://{bucket}/x")
    storage.put("größe/a b", b"1")
    assert [item.key for item in storage.list("")] == ["größe/a b"]
    assert storage.get("größe/a b") == b"1"
    assert set(asked) == {f"{bucket}.localhost"}


def test_a_certificate_is_trusted_by_the_bundle_that_the_environment_names(
    bucket: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path / "store.pem")
    with s3_proxy(s3_environment, certificate) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv(TIMEOUT_VARIABLE, "5")
        with pytest.raises(
            StorageError, match="its certificate is not trusted; name the authority's file in AWS_CA_BU"
        ):
            open_storage(f"s3://{bucket}").put("a", b"1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url.replace("https:", "http:"))
        with pytest.raises(StorageError, match=r"before it has answered in full; does it want https:// \?"):
            S3Storage(f"s3://{bucket}", timeout=0.5).put("a", b"1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        storage = open_storage(f"s3://{bucket}")
        storage.put("a", b"1")
        assert storage.get("a") == b"1"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
        with pytest.raises(StorageError, match="AWS_CA_BUNDLE"):
            open_storage(f"s3://{bucket}").put("a", b"1")


def test_a_profile_holds_endpoint_region_and_keys(
    bucket: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-central-1\nservices = lab\n"
        f"[services lab]\ns3 =\n  endpoint_url = {s3_environment}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    check = check_storage(f"s3://{bucket}")
    assert check.failed == ()
    assert check.access.startswith(f"{s3_environment}, region eu-central-1, ")
    assert check.access.endswith("credentials from shared-credentials-file")


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["S3Client"]:
    """A client of moto's server, which imitates more of AWS than other stores have; the environment is its user's."""
    with moto_server() as endpoint:
        set_environment(endpoint, monkeypatch, tmp_path)
        yield boto3.session.Session().client("s3", region_name="us-east-1")


@pytest.mark.integration
def test_a_role_is_taken_by_web_identity(moto: "S3Client", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moto.create_bucket(Bucket="results")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "token").write_text("issued by the cluster")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/results")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    check = check_storage("s3://results/x")
    assert check.failed == ()
    assert check.access.endswith("credentials from assume-role-with-web-identity")


@pytest.mark.integration
def test_a_bucket_may_encrypt_what_it_holds(moto: "S3Client") -> None:
    moto.create_bucket(Bucket="results")
    rule: Any = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "key-of-the-lab"}}
    moto.put_bucket_encryption(Bucket="results", ServerSideEncryptionConfiguration={"Rules": [rule]})
    check = check_storage("s3://results")
    assert check.failed == ()
    text = check.findings["encryption"].text
    assert text == "the bucket encrypts objects with aws:kms, key key-of-the-lab"
    storage = S3Storage("s3://results")
    storage.put("a", b"1")
    assert storage.get("a") == b"1"


def test_a_connection_that_is_not_accepted_is_given_up_within_the_stated_time(
    s3_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(4):  # more than the queue holds: the kernel answers no further request for a connection
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(full.getsockname())
            waiting.append(one)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{full.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"no connection in time; check AWS_ENDPOINT_URL_S3"):
            S3Storage("s3://bucket", timeout=1).put("a", b"1")
        assert time.monotonic() - started < DEFAULT_TIMEOUT / 2  # machines are busy
        for one in waiting:
            one.close()


def test_an_object_that_is_deleted_under_the_reader_reads_as_none(
    bucket: str, proxy: S3Proxy, administrator: "S3Client"
) -> None:
    storage = open_storage(f"s3://{bucket}")
    storage.put("a", b"1")
    storage.put("b", b"2")

    def delete_first(method: str, path: str) -> int:
        if method == "GET" and path.endswith("/a"):
            administrator.delete_object(Bucket=bucket, Key="a")
        return 0

    proxy.refuse = delete_first
    assert [(item.key, storage.get(item.key)) for item in storage.list("")] == [("a", None), ("b", b"2")]


def test_an_object_that_is_written_under_a_reader_who_was_denied_what_was_missing_is_read(
    bucket: str, proxy: S3Proxy, ceph: S3Server, administrator: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    use_prefix_alone(ceph, administrator, bucket, "results", monkeypatch)
    storage = open_storage(f"s3://{bucket}/results")
    passed: list[str] = []

    def write_before_the_listing(method: str, path: str) -> int:
        passed.append(path.partition("?")[0])
        if "list-type=2" in path:
            administrator.put_object(Bucket=bucket, Key="results/a", Body=b"1")
        return 0

    proxy.refuse = write_before_the_listing
    assert storage.get("a") == b"1"
    assert passed == [f"/{bucket}/results/a", f"/{bucket}", f"/{bucket}/results/a"], "denied, listed, read"


def test_a_bucket_that_vanishes_is_named(bucket: str, administrator: "S3Client") -> None:
    storage = open_storage(f"s3://{bucket}/x")
    storage.put("a", b"1")
    storage.delete("a")
    administrator.delete_bucket(Bucket=bucket)
    for operation in (lambda: storage.put("a", b"1"), lambda: storage.create("b", b"1"), lambda: storage.list("")):
        with pytest.raises(StorageError, match=rf"s3://{bucket}/x.*: the bucket does not exist; create it"):
            operation()


@pytest.mark.parametrize("length", [1022, 1023, 1024])
def test_keys_may_have_1024_bytes_of_unicode(bucket: str, length: int) -> None:
    storage = open_storage(f"s3://{bucket}/größe der studie")
    room = length - len("größe der studie/".encode())
    key = "trials/" + "ü " * ((room - 7) // 3) + "x" * ((room - 7) % 3)
    storage.put(key, b"1")
    assert storage.create(key, b"2") is False
    assert [item.key for item in storage.list("trials/")] == [key]
    assert storage.get(key) == b"1"
    storage.delete(key)
    assert storage.get(key) is None
