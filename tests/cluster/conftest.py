"""A real S3 server over HTTP (moto's, in a process of its own) for the tests of storage."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ACCESS_KEY, SECRET_KEY = "AKIAPLANTEDTESTKEY00", "planted+secret/ThatMustAppearNowhere1234"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server that runs as long as the test session."""
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
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    return s3_endpoint


@pytest.fixture(scope="session")
def administrator(s3_endpoint: str) -> "S3Client":
    """A client that does not depend on the environment."""
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
    name = f"results-{uuid.uuid4().hex[:12]}"
    administrator.create_bucket(Bucket=name)
    return name
