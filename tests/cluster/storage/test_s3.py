"""What is particular to S3: configuration from the environment, errors in one line, paging, secrets."""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cluster.storage.opening import open_storage
from cluster.storage.s3 import DEFAULT_TIMEOUT, MULTIPART_BYTES, TIMEOUT_VARIABLE, S3Storage
from resnet_dist.errors import StorageError, UserError
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, put_as_named, user_of_ceph
from tests.s3_server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def failure(uri: str) -> str:
    """The one line of a failing check, which holds no secret."""
    with pytest.raises(StorageError) as caught:
        open_storage(uri).check_writable()
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET_KEY not in message
    assert ACCESS_KEY not in message
    return message


def test_a_pickle_holds_no_secret(bucket: str) -> None:
    storage = S3Storage(f"s3://{bucket}/x")
    storage.put("a", b"1")  # the client exists by now
    content = pickle.dumps(storage)
    assert SECRET_KEY.encode() not in content
    assert ACCESS_KEY.encode() not in content
    assert b"127.0.0.1" not in content


def test_a_directory_needs_neither_boto3_nor_torch() -> None:
    code = (
        "import sys; from cluster.storage.opening import open_storage; open_storage('x');"
        "assert not {'boto3', 'botocore', 'torch'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_prefix_bounds_what_is_seen(bucket: str) -> None:
    S3Storage(f"s3://{bucket}/a").put("x", b"1")
    S3Storage(f"s3://{bucket}/ab").put("y", b"2")
    assert [item.key for item in S3Storage(f"s3://{bucket}/a/").list("")] == ["x"]
    assert [item.key for item in S3Storage(f"s3://{bucket}").list("")] == ["a/x", "ab/y"]


def test_keys_of_others_that_have_no_place_in_a_directory_are_left_out(bucket: str, administrator: "S3Client") -> None:
    for key in ("folder/", "a/../../escape", "a//b", "a/fine"):
        put_as_named(administrator, bucket, key)
    assert administrator.list_objects_v2(Bucket=bucket)["KeyCount"] == 4
    assert [item.key for item in S3Storage(f"s3://{bucket}").list("")] == ["a/fine"]


def test_prefix_and_key_together_have_a_limit(bucket: str) -> None:
    storage = S3Storage(f"s3://{bucket}/{'p' * 500}")
    storage.put("k" * 523, b"1")
    assert storage.get("k" * 523) == b"1"
    with pytest.raises(StorageError, match="it has 1025 bytes in UTF-8 and may have 1024"):
        storage.put("k" * 524, b"1")


def test_large_objects_go_in_parts(bucket: str) -> None:
    storage = S3Storage(f"s3://{bucket}")
    content = bytes(range(256)) * (MULTIPART_BYTES // 256)
    storage.put("model.pt", content)
    (item,) = storage.list("")
    assert item.size == MULTIPART_BYTES
    assert item.version.endswith("-4")  # S3's ETag of an object of four parts
    assert storage.get("model.pt") == content


@pytest.mark.integration
def test_a_listing_goes_on_beyond_a_page(bucket: str) -> None:
    storage = S3Storage(f"s3://{bucket}/x")
    names = [f"trials/{number:04}/r" for number in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: storage.put(name, b""), names))
    assert [item.key for item in storage.list("trials/")] == names
    assert storage.folders("trials/") == tuple(f"{number:04}" for number in range(1003))


def test_a_missing_bucket_is_named(s3_environment: str) -> None:
    message = failure("s3://no-such-bucket/x")
    assert re.search(rf"s3://no-such-bucket/x/.* at {s3_environment}: the bucket does not exist; create it", message)
    with pytest.raises(StorageError, match="the bucket does not exist"):
        open_storage("s3://no-such-bucket").get("a")
    with pytest.raises(StorageError, match="the bucket does not exist"):
        open_storage("s3://no-such-bucket").list("")


def test_missing_credentials_are_said_to_be_missing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "there are no credentials here; set AWS_ACCESS_KEY_ID" in failure(f"s3://{bucket}")


def test_an_unknown_profile_is_named_by_its_variable(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "the profile that AWS_PROFILE names does not exist" in failure(f"s3://{bucket}")


NOT_LISTING = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"]


@pytest.fixture
def limited_user(bucket: str, s3_kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user who may read and write but not list, on a server that checks it."""
    user: tuple[str, str] = request.getfixturevalue(f"{s3_kind}_keys")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user[1])


@pytest.fixture
def ceph_keys(bucket: str, ceph: S3Server, administrator: "S3Client") -> tuple[str, str]:
    statement = {"Action": NOT_LISTING, "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    return user_of_ceph(ceph, administrator, bucket, statement)


@pytest.fixture
def moto_keys(bucket: str, s3_environment: str) -> Iterator[tuple[str, str]]:
    def check_after(requests: str) -> None:
        url, headers = f"{s3_environment}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), headers, method="POST")).close()

    iam = boto3.session.Session().client("iam", region_name="us-east-1")
    iam.create_user(UserName=bucket)
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": NOT_LISTING, "Resource": "*"}]}
    iam.put_user_policy(UserName=bucket, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=bucket)["AccessKey"]
    check_after("0")
    yield key["AccessKeyId"], key["SecretAccessKey"]
    check_after("inf")


@pytest.mark.usefixtures("limited_user")
def test_a_user_who_may_not_list_is_told_the_permission(bucket: str) -> None:
    assert "access is denied; these credentials need s3:ListBucket for this prefix" in failure(f"s3://{bucket}")


@pytest.mark.usefixtures("limited_user")
def test_a_wrong_secret_is_said_to_be_wrong(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    assert "correct AWS_SECRET_ACCESS_KEY" in failure(f"s3://{bucket}")


@pytest.mark.usefixtures("limited_user")
def test_an_unknown_access_key_is_said_to_be_unknown(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFNOBODYATALL000")
    assert "the access key is not known there" in failure(f"s3://{bucket}")


def test_an_unreachable_endpoint_fails_within_the_stated_time(
    s3_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0.5")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: connections are refused
        port = taken.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hidden@127.0.0.1:{port}")
        started = time.monotonic()
        message = failure("s3://bucket")
    assert time.monotonic() - started < DEFAULT_TIMEOUT / 2  # the stated time is 0.5 s, and machines are busy
    assert f"at http://127.0.0.1:{port}: the server cannot be reached" in message


def test_a_hanging_endpoint_fails_within_the_stated_time(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are accepted, and nothing is said
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv(TIMEOUT_VARIABLE, "1")
        started = time.monotonic()
        assert "does not answer in time" in failure("s3://bucket")
    assert time.monotonic() - started < DEFAULT_TIMEOUT / 2


def test_https_at_a_plain_http_server_is_explained(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"].replace("http:", "https:"))
    assert "the server speaks plain HTTP; write the endpoint with http://" in failure(f"s3://{bucket}")


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_an_impossible_timeout_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, value)
    with pytest.raises(UserError, match=f"{TIMEOUT_VARIABLE}='{value}' is not allowed"):
        open_storage("s3://bucket")


class Faulty(BaseHTTPRequestHandler):
    """A store with one object, which answers the first requests badly."""

    protocol_version = "HTTP/1.1"
    bad_answers: list[int | str]
    stored: dict[str, str | None]
    requests: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        bad = self.bad_answers.pop(0) if self.bad_answers else None
        self.requests.append("PUT")
        if bad is None or bad == "lost":
            taken = self.headers["If-None-Match"] == "*" and "writer" in self.stored
            if not taken:
                self.stored["writer"] = self.headers["x-amz-meta-writer"]
            if bad == "lost":
                self.close_connection = True
                return
            self.answer(412 if taken else 200)
        else:
            assert isinstance(bad, int)
            self.answer(bad)

    def do_HEAD(self) -> None:
        self.requests.append("HEAD")
        self.answer(200, {"x-amz-meta-writer": self.stored["writer"] or ""})

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", "ETag": '"1"', **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def faulty(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    handler = type("Handler", (Faulty,), {"bad_answers": [], "stored": {}, "requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield handler
        server.shutdown()


def test_overload_and_lost_connections_are_tried_again(faulty: type[Faulty]) -> None:
    faulty.bad_answers[:] = [503, 500, "lost", 429]
    S3Storage("s3://bucket").put("a", b"1")
    assert faulty.requests == ["PUT"] * 5


def test_requests_and_those_sent_again_are_counted(faulty: type[Faulty]) -> None:
    storage = S3Storage("s3://bucket")
    assert storage.counts.totals().requests == {}
    faulty.bad_answers[:] = [503, "lost"]
    storage.put("a", b"1")
    storage.put("a", b"2")
    totals = storage.counts.totals()
    assert (totals.requests, totals.retries, totals.sent) == ({"PutObject": 4}, 2, 4)
    assert pickle.loads(pickle.dumps(storage)).counts.totals().requests == {}, "another process counts its own"


def test_what_cannot_pass_is_not_tried_again(faulty: type[Faulty]) -> None:
    faulty.bad_answers[:] = [403]
    with pytest.raises(StorageError, match="these credentials need s3:PutObject"):
        S3Storage("s3://bucket").put("a", b"1")
    assert faulty.requests == ["PUT"]


def test_a_creation_whose_answer_was_lost_is_still_known_to_be_ours(faulty: type[Faulty]) -> None:
    faulty.bad_answers[:] = ["lost"]
    assert S3Storage("s3://bucket").create("lease", b"1") is True
    assert faulty.requests == ["PUT", "PUT", "HEAD"]


def test_a_creation_after_overload_does_not_claim_the_object_of_another(faulty: type[Faulty]) -> None:
    faulty.stored["writer"] = "another"
    faulty.bad_answers[:] = [503]
    assert S3Storage("s3://bucket").create("lease", b"1") is False


def test_a_store_that_ignores_write_only_if_absent_fails_the_check(
    faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        faulty, "do_PUT", lambda self: (self.rfile.read(int(self.headers["Content-Length"])), self.answer(200))
    )
    monkeypatch.setattr(faulty, "do_DELETE", lambda self: self.answer(204), raising=False)
    assert "does not honour 'write only if absent'" in failure("s3://bucket")


@pytest.mark.parametrize(("there", "missing"), [(["a.b"], True), (["a", "a.b"], False), ([], True)])
def test_what_is_denied_is_missing_unless_an_object_of_this_very_name_is_listed(
    there: list[str], missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        """Denies what is missing, as stores do to those who may list a prefix alone, and what is forbidden."""

        def get_object(self, **_: str) -> None:
            answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(answer, "GetObject")  # type: ignore[arg-type]

        def list_objects_v2(self, **asked: Any) -> dict[str, list[dict[str, str]]]:
            return {"Contents": [{"Key": key} for key in there if key.startswith(asked["Prefix"])][: asked["MaxKeys"]]}

    storage = S3Storage("s3://bucket", timeout=1)
    monkeypatch.setattr(storage, "_ready", lambda: None)
    monkeypatch.setattr(storage, "_client", Client)
    if missing:
        assert storage.get("a") is None
    else:
        with pytest.raises(StorageError, match="access is denied"):
            storage.get("a")
