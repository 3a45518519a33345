"""The throw-away server: it starts beside others, says how to use it, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from resnet_dist.errors import UserError
from tests import s3_server
from tests.s3_server import S3Server


@contextlib.contextmanager
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The command as a process of its own with its state below `tmp_path`, and the variables that it prints."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.s3_server", "--bucket", "tried-out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        try:
            assert process.stdout
            variables = {}
            for line in process.stdout:
                if line.startswith("# Ctrl-C"):
                    break
                if line.startswith("export "):
                    name, _, value = line.removeprefix("export ").strip().partition("=")
                    variables[name] = value
            yield process, variables
        finally:
            process.terminate()


def daemons(tmp_path: Path) -> list[str]:
    """Command lines of the processes that use a configuration below `tmp_path`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if any(word.startswith(os.fsencode(tmp_path)) and word.endswith(b"ceph.conf") for word in words):
                found.append(os.fsdecode(words[0]))
    return sorted(found)


@pytest.mark.integration
def test_what_it_prints_is_all_that_a_client_needs_and_ctrl_c_ends_it_alone(
    ceph: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path) as (process, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        client = boto3.session.Session().client("s3")  # the default session keeps an earlier test's keys
        client.put_object(Bucket="tried-out", Key="a", Body=b"1")
        assert client.list_objects_v2(Bucket="tried-out")["KeyCount"] == 1
        assert variables["AWS_ENDPOINT_URL"] != ceph.endpoint
        assert daemons(tmp_path) == ["ceph-mon", "ceph-osd", "radosgw"]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert process.stderr and process.stderr.read() == "stopped; its objects are gone\n"
    assert daemons(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert all(Path(f"/proc/{pid}").exists() for pid in ceph.pids.values())


@pytest.mark.integration
@pytest.mark.usefixtures("ceph")
def test_daemons_do_not_outlive_a_harness_that_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as (process, _):
        assert len(daemons(tmp_path)) == 3
        process.kill()
        process.wait()
        while daemons(tmp_path):
            time.sleep(0.05)
    assert daemons(tmp_path) == []


@pytest.mark.usefixtures("ceph")
def test_a_daemon_that_ends_during_the_start_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_server, "START_ATTEMPTS", 1)
    broken = tmp_path / "ceph-mon"
    broken.write_text(
        '#!/bin/sh\ncase "$*" in *mkfs*) exit 0;; *) echo "first"; echo "address in use" >&2; exit 7;; esac'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with (
        pytest.raises(UserError, match=r"^the S3 server does not start: ceph-mon ended: address in use$"),
        s3_server.running(),
    ):
        pass


def test_a_machine_without_the_packages_is_told_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="on Debian: apt-get install --no-install-recommends ceph-mon "):
        s3_server.running().__enter__()


def test_only_root_installs_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert s3_server.main(["--install"]) == 1
    assert capsys.readouterr().err.startswith("error: Ceph's gateway is not installed, which takes root: apt-get ")


def test_free_ports_are_different_and_below_those_that_the_system_gives_out() -> None:
    ports = s3_server.free_ports(20)
    assert len(set(ports)) == 20
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < lowest
