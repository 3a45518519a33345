"""A grid on a real S3 server: read while it runs, complete at its end, nothing but the layout, no secret anywhere."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from cluster.mirror import Mirror
from cluster.storage import BrowsableStorage, open_storage
from tests.integration.test_grid import HEAD
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, use_prefix_alone
from tune_jobs.command_line import main

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

pytestmark = pytest.mark.integration

CELLS = {
    "ReLU": "",
    "No ReLU": '"network.relu_after_addition" = false',
    "After": '"network.batch_norm_position" = "after"',
    "After, no ReLU": '"network.batch_norm_position" = "after", "network.relu_after_addition" = false',
    "RMSprop": '"solver.kind" = "rmsprop"',
    "Adagrad": '"solver.kind" = "adagrad"',
    "Two workers": '"batch_norm.momentum" = 0.01, "run.workers" = 2',
    "Two workers, dynamic": '"batch_norm.momentum" = "dynamic", "run.workers" = 2',
}
PREFIX = "my results/größe"
OF_A_FINISHED_TRIAL = {"config.json", "provenance.json", "metrics.jsonl", "model.pt", "result.json"}
LAYOUT = re.compile(
    r"small/(experiment\.json"
    r"|trials/[0-9a-f]{16}/(config\.json|provenance\.json|source\.patch|metrics\.jsonl|model\.pt|result\.json)"
    r"|tb/[^/]+(/[^/]+)*/events\.out\.tfevents\.\d+\.resnet_dist"
    r"|report/(report\.md|report\.html|tables\.csv|results\.csv|figures/[^/]+\.(svg|png))"
    r"|\.lease/\d+\.json"
    r"|\.ray/.+)"
)


@pytest.fixture
def keys(bucket: str, s3_kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The keys in the environment: of a user who may use one prefix alone, where the server tells users apart."""
    if s3_kind != "ceph":
        return ACCESS_KEY, SECRET_KEY
    ceph, owner = request.getfixturevalue("ceph"), request.getfixturevalue("administrator")
    return use_prefix_alone(ceph, owner, bucket, PREFIX, monkeypatch)


@pytest.fixture
def ray_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray puts its session files: a short path, since the names of its sockets have a limit."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        monkeypatch.setenv("RAY_TMPDIR", directory)
        yield Path(directory)


def command_output(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def holders(root: Path, secret: bytes) -> list[Path]:
    """Files below `root` that hold `secret`."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if secret in path.read_bytes()]


def test_a_grid_in_s3_is_read_live_and_ends_in_the_layout_without_a_secret(
    bucket: str,
    keys: tuple[str, str],
    administrator: "S3Client",
    ray_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("CACHE", "SPOOL"):
        monkeypatch.setenv(f"RESNET_DIST_{name}", str(tmp_path / name.lower()))
    experiment, uri = tmp_path / "small.toml", f"s3://{bucket}/{PREFIX}"
    cells = (f'[[table.cell]]\nlabel = "{label}"\nset = {{ {settings} }}\n' for label, settings in CELLS.items())
    experiment.write_text(HEAD % {"epochs": 2} + "".join(cells))
    storage = open_storage(uri)
    mirror = Mirror(storage, "small/tb/", tmp_path / "mirror")

    log = tmp_path / "log"
    command = [sys.executable, "-m", "tune_jobs", "grid", "run", str(experiment), "--storage", uri]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, process_group=0) as grid,
    ):
        try:
            while_it_ran = watch(grid, storage, mirror, uri, capsys)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(grid.pid, signal.SIGKILL)  # what a failing start leaves behind, too
    assert grid.returncode == 0, log.read_text()
    assert while_it_ran == {"status", "report", "events"}

    status = command_output(capsys, "grid", "status", "small", "--storage", uri)
    assert [trial["state"] for trial in status["trials"]] == ["finished"] * 8
    results = [storage.get(f"small/trials/{trial['trial']}/result.json") or b"" for trial in status["trials"]]
    assert sorted(json.loads(result)["workers"] for result in results) == [1] * 6 + [2] * 2
    mirror.sync()
    copied = {f"small/tb/{path.relative_to(mirror.directory)}" for path in mirror.directory.rglob("*.*.*.*")}
    assert copied == {item.key for item in storage.list("small/tb/")}
    assert len({Path(key).parent for key in copied}) == 8

    present = [item.key for item in storage.list("")]
    assert [key for key in present if not LAYOUT.fullmatch(key)] == []
    for trial in status["trials"]:
        folder = f"small/trials/{trial['trial']}/"
        assert {item.key.removeprefix(folder) for item in storage.list(folder)} - {
            "source.patch"
        } == OF_A_FINISHED_TRIAL
    pages = administrator.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    everything = {item["Key"] for page in pages for item in page.get("Contents", ())}
    others = everything - {f"{PREFIX}/{key}" for key in present}
    assert {key for key in others if not key.startswith(f"{PREFIX}/small/.ray/")} == set()  # Ray marks its folders
    assert any(key.startswith("small/.ray/") for key in present)

    assert list(ray_directory.glob("**/raylet.out"))
    reader = boto3.session.Session().client(
        "s3", region_name="us-east-1"
    )  # who wrote the objects: they are not the bucket's owner's
    objects = {key: reader.get_object(Bucket=bucket, Key=key)["Body"].read() for key in everything}
    for secret in (key.encode() for key in keys):
        assert [key for key, content in objects.items() if secret in content] == []
        assert holders(tmp_path, secret) == []  # log, spool, caches, the mirror
        assert holders(ray_directory, secret) == []


def watch(
    grid: subprocess.Popen[bytes],
    storage: BrowsableStorage,
    mirror: Mirror,
    uri: str,
    capsys: pytest.CaptureFixture[str],
) -> set[str]:
    """Read a grid in the ways that its owner would until it ends; which of them have seen it half done."""
    seen: set[str] = set()
    end = time.monotonic() + 270
    while grid.poll() is None and time.monotonic() < end:
        time.sleep(1)
        if storage.get("small/experiment.json") is None:
            continue
        status = command_output(capsys, "grid", "status", "small", "--storage", uri)
        finished = sum(trial["state"] == "finished" for trial in status["trials"])
        if not 0 < finished < 8:
            continue
        seen.add("status")
        if mirror.sync().unchanged or any(mirror.directory.rglob("events.out.tfevents.*")):
            seen.add("events")
        if "report" not in seen:
            report = command_output(capsys, "grid", "report", "small", "--storage", uri)
            assert report
            seen.add("report")
    return seen
