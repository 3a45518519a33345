"""An S3 server over HTTP for the tests of storage: Ceph's gateway where it is installed, else moto's server.

`RESNET_DIST_TEST_S3` chooses one of the two; one that was chosen and cannot be started is a failure.
"""

import contextlib
import http.client
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests import s3_server

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ACCESS_KEY, SECRET_KEY = "AKIAPLANTEDTESTKEY00", "planted+secret/ThatMustAppearNowhere1234"
"""Of the user as whom tests use the server."""


@pytest.fixture(scope="session")
def s3_kind() -> str:
    """`ceph` or `moto`: which server the tests of this session use."""
    kind = os.environ.get("RESNET_DIST_TEST_S3") or ("moto" if s3_server.missing_programs() else "ceph")
    assert kind in ("ceph", "moto"), f"RESNET_DIST_TEST_S3={kind}: it may be ceph or moto"
    return kind


@pytest.fixture(scope="session")
def ceph(s3_kind: str) -> Iterator[s3_server.S3Server]:
    """The real server, for what moto does not imitate; skips where moto's is used."""
    if s3_kind != "ceph":
        pytest.skip(reason="Ceph's gateway is not asked for (make test S3=ceph installs it)")
    with s3_server.running(ACCESS_KEY, SECRET_KEY) as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint(s3_kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an S3 server that runs as long as the test session."""
    if s3_kind == "ceph":
        yield request.getfixturevalue("ceph").endpoint
        return
    with moto_server() as endpoint:
        yield endpoint


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """moto's server in a process of its own; yields its URL."""
    command = [sys.executable, str(Path(__file__).with_name("moto_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        port = server.stdout.readline().strip()
        assert port, "moto's server did not start"
        yield f"http://127.0.0.1:{port}"
        server.stdin.close()
        server.wait(10)


@pytest.fixture
def s3_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The environment variables of a user of that server, and none of whoever runs the tests; its URL."""
    set_environment(s3_endpoint, monkeypatch, tmp_path)
    return s3_endpoint


def set_environment(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set the variables of a user of the server at `endpoint`, and none of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture(scope="session")
def administrator(s3_endpoint: str) -> "S3Client":
    """A client of the same user that does not depend on the environment."""
    import boto3  # tests that need no S3 run without it

    return boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=s3_endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


@pytest.fixture
def bucket(s3_environment: str, administrator: "S3Client") -> str:
    """A new, empty bucket of the server that the environment names."""
    name = f"results-{secrets.token_hex(6)}"
    administrator.create_bucket(Bucket=name)
    return name


def put_as_named(client: "S3Client", bucket: str, key: str) -> None:
    """Write an empty object with a key that boto3's HTTP library would shorten (`a/../b`)."""
    url = urlsplit(client.generate_presigned_url("put_object", {"Bucket": bucket, "Key": key}))
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request("PUT", f"{url.path}?{url.query}", b"")
    assert connection.getresponse().status == 200
    connection.close()


def user_of_ceph(ceph: s3_server.S3Server, owner: "S3Client", bucket: str, *allowed: dict[str, Any]) -> tuple[str, str]:
    """A user of Ceph's gateway who owns nothing and may do in `bucket` what these statements say; the two keys."""
    name = f"user-{secrets.token_hex(6)}"
    keys = name.upper(), "secret+of/the+limited+user"
    principal = {"AWS": [ceph.add_user(name, *keys)]}
    statements = [{"Effect": "Allow", "Principal": principal, **statement} for statement in allowed]
    policy = {"Version": "2012-10-17", "Statement": statements}
    owner.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    return keys


def use_prefix_alone(
    ceph: s3_server.S3Server, owner: "S3Client", bucket: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """Put the keys of a user into the environment who has the permissions of `docs/s3.md`, for `prefix`; the keys."""
    objects = {
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
        "Resource": [f"arn:aws:s3:::{bucket}/{prefix}/*"],
    }
    listing = {
        "Action": ["s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{bucket}"],
        "Condition": {"StringLike": {"s3:prefix": [f"{prefix}/*"]}},
    }
    keys = user_of_ceph(ceph, owner, bucket, objects, listing)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    return keys
