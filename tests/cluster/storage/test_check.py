"""`resnet-dist storage check`: it finds out what a storage lacks, says what follows, and leaves nothing behind."""

import datetime
import json
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import botocore.auth
import pytest

from cluster.storage.check import check_storage
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.storage.s3 import DEFAULT_TIMEOUT, TIMEOUT_VARIABLE
from resnet_dist.errors import StorageError
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, use_prefix_alone, user_of_ceph
from tests.s3_server import S3Server
from tune_jobs.command_line import main

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

OPERATIONS = ["write", "read", "list", "create", "throughput"]
OF_S3 = ["head", "parts", "clock", "checksums", "versions", "encryption"]


def test_a_sound_directory_passes_and_is_left_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LocalStorage(tmp_path).put("grid/experiment.json", b"{}")
    assert main(["storage", "check", str(tmp_path)]) == 0
    assert "Fit for runs and grids." in capsys.readouterr().out
    check = check_storage(str(tmp_path))
    assert list(check.findings) == [*OPERATIONS, "delete"]
    assert {finding.state for finding in check.findings.values()} == {"ok"}
    assert [item.key for item in LocalStorage(tmp_path).list("")] == ["grid/experiment.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["grid"]


def test_a_sound_bucket_passes_is_measured_and_left_as_it_was(
    bucket: str, s3_kind: str, administrator: "S3Client", capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["storage", "check", f"s3://{bucket}/my results", "--json"]) == 0
    out = capsys.readouterr().out
    assert ACCESS_KEY not in out and SECRET_KEY not in out
    record = json.loads(out)
    assert record["usable"] is True and record["not_tried"] == []
    states = {finding["name"]: finding["state"] for finding in record["findings"]}
    assert list(states) == [*OPERATIONS, *OF_S3, "delete"]
    trailing = states.pop("checksums")
    assert trailing == ("note" if s3_kind == "ceph" else "ok")  # Ceph 16 takes no checksum after the data
    assert set(states.values()) == {"ok"}
    assert all(f["seconds"] > 0 for f in record["findings"] if f["name"] in ("write", "read", "list", "delete", "head"))
    assert "region us-east-1, path-style addressing, credentials from the environment" in record["access"]
    assert administrator.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def arn(bucket: str) -> list[str]:
    return [f"arn:aws:s3:::{bucket}/*"]


def become(keys: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])


def test_a_missing_permission_is_named_with_what_follows_and_the_rest_is_tried(
    bucket: str,
    ceph: S3Server,
    administrator: "S3Client",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    objects = {"Action": ["s3:PutObject", "s3:GetObject"], "Resource": arn(bucket)}
    listing = {"Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]}
    become(user_of_ceph(ceph, administrator, bucket, objects, listing), monkeypatch)
    found = check_storage(f"s3://{bucket}/x").findings
    assert list(found) == [*OPERATIONS, *OF_S3, "delete"]
    assert [name for name, finding in found.items() if finding.state == "failed"] == ["delete"]
    assert "these credentials need s3:DeleteObject. Without it old checkpoints stay" in found["delete"].text
    assert main(["storage", "check", f"s3://{bucket}/x"]) == 1
    assert "Not fit for runs as it is: delete failed." in capsys.readouterr().out


def test_who_may_only_read_is_told_that_reading_works(
    bucket: str, ceph: S3Server, administrator: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = {"Action": ["s3:GetObject", "s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}", *arn(bucket)]}
    become(user_of_ceph(ceph, administrator, bucket, reading), monkeypatch)
    check = check_storage(f"s3://{bucket}/x")
    assert [(name, finding.state) for name, finding in check.findings.items()] == [
        ("write", "failed"),
        ("read", "ok"),
        ("list", "ok"),
    ]
    assert "these credentials need s3:PutObject" in check.findings["write"].text
    assert check.not_tried == ("create", "throughput", *OF_S3, "delete")


def test_a_policy_limited_to_the_prefix_is_enough_and_reaches_no_further(
    bucket: str, ceph: S3Server, administrator: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    use_prefix_alone(ceph, administrator, bucket, "group/results", monkeypatch)
    assert check_storage(f"s3://{bucket}/group/results").failed == ()
    storage = open_storage(f"s3://{bucket}/group/results")
    storage.check_writable()
    storage.put("grid/experiment.json", b"{}")
    assert storage.folders("") == ("grid",)
    assert storage.get("grid/none") is None
    assert check_storage(f"s3://{bucket}/group").failed[0] == "write"


def test_a_bucket_that_keeps_versions_is_noted_and_refused_where_two_can_create_one_object(
    bucket: str, s3_kind: str, administrator: "S3Client"
) -> None:
    administrator.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    found = check_storage(f"s3://{bucket}").findings
    assert found["versions"].state == "note"
    assert (
        "old checkpoints too, and it counts as used space; give the bucket a lifecycle rule" in found["versions"].text
    )
    storage = open_storage(f"s3://{bucket}")
    if s3_kind == "ceph":  # it ignores If-None-Match in such a bucket
        assert found["create"].state == "failed"
        assert "Ceph's gateway: a bucket that keeps no versions" in found["create"].text
        with pytest.raises(StorageError, match="does not honour 'write only if absent'"):
            storage.check_writable()
        return
    assert not [name for name, finding in found.items() if finding.state == "failed"]
    storage.check_writable()
    assert storage.create("lease", b"1") is True
    storage.delete("lease")
    assert storage.list("") == [] and storage.get("lease") is None
    assert storage.create("lease", b"2") is True  # over what only marks the deletion
    assert storage.create("lease", b"3") is False
    assert storage.get("lease") == b"2"


def test_a_clock_that_is_wrong_is_noted_before_the_server_refuses_it(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 300)
    clock = check_storage(f"s3://{bucket}").findings["clock"]
    assert clock.state == "note"
    assert re.search(r"are (29|30)\d s apart; from 900 s on every request is refused: set the clock", clock.text)


@pytest.mark.usefixtures("ceph")
def test_a_clock_that_the_server_refuses_is_the_first_failure(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(minutes=20)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: later)
    check = check_storage(f"s3://{bucket}")
    assert check.failed == ("write",)
    assert "this machine's clock and the server's differ too much; set the clock" in check.findings["write"].text


def test_a_store_that_lets_two_create_one_object_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(storage: LocalStorage, key: str, data: bytes) -> bool:
        storage.put(key, data)
        return True

    monkeypatch.setattr(LocalStorage, "create", overwrite)
    create = check_storage(str(tmp_path)).findings["create"]
    assert create.state == "failed"
    assert "4 of 4 racing writers created one object" in create.text
    assert "two launches could claim one trial" in create.text
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_forgets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_only = LocalStorage.list
    monkeypatch.setattr(LocalStorage, "list", lambda storage, prefix: first_only(storage, prefix)[:1])
    check = check_storage(str(tmp_path))
    assert check.failed == ("list",)
    assert "a listing lacks what was just written" in check.findings["list"].text
    assert list(tmp_path.iterdir()) == []


def test_the_first_shared_failure_ends_the_check(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["storage", "check", "s3://no-such-bucket/x"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "the bucket does not exist; create it" in out
    assert "not tried: read, list, create" in out


def test_a_server_that_hangs_is_given_up_within_the_stated_time(
    s3_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv(TIMEOUT_VARIABLE, "1")
        started = time.monotonic()
        check = check_storage("s3://bucket/x")
    assert time.monotonic() - started < DEFAULT_TIMEOUT / 2  # machines are busy
    assert check.failed == ("write",)
    assert "does not answer in time" in check.findings["write"].text


def test_missing_credentials_are_one_line(
    s3_environment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert main(["storage", "check", "s3://bucket"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot reach s3://bucket: ") and "there are no credentials" in line
