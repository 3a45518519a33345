"""Logs of Ray that would go with their pod are in storage when it goes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ray_cluster import kept_logs
from cluster.ray_cluster.kept_logs import MOST, keep
from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError
from tests.unreliable_storage import UnreliableStorage


@pytest.fixture
def ray_directory(tmp_path: Path) -> Path:
    """As Ray leaves it: sessions, and a link to the newest one."""
    logs = tmp_path / "ray" / "session_1" / "logs"
    (logs / "old").mkdir(parents=True)
    (logs / "job-driver-grid.log").write_text("first line\n")
    (logs / "old" / "worker-1.err").write_text("a worker's line\n")
    (logs / "worker-2.out").touch()
    (logs / "raylet.sock").write_text("no log")
    (tmp_path / "ray" / "session_latest").symlink_to("session_1")
    return tmp_path / "ray"


def test_each_log_is_kept_once_until_it_changes(ray_directory: Path, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "results"))
    kept: dict[Path, tuple[int, int]] = {}
    assert keep(ray_directory, storage, "pod", kept) == 2
    assert [entry.key for entry in storage.list(".logs/")] == [
        ".logs/pod/session_1/job-driver-grid.log",
        ".logs/pod/session_1/old/worker-1.err",
    ]
    assert keep(ray_directory, storage, "pod", kept) == 0
    with (ray_directory / "session_1" / "logs" / "job-driver-grid.log").open("a") as log:
        log.write("second line\n")
    assert keep(ray_directory, storage, "pod", kept) == 1
    assert storage.get(".logs/pod/session_1/job-driver-grid.log") == b"first line\nsecond line\n"


def test_of_a_long_log_the_end_is_kept(ray_directory: Path, tmp_path: Path) -> None:
    (ray_directory / "session_1" / "logs" / "long.log").write_bytes(b"a" * MOST + b"the end\n")
    storage = open_storage(str(tmp_path / "results"))
    keep(ray_directory, storage, "pod", {})
    text = storage.get(".logs/pod/session_1/long.log") or b""
    assert len(text) == MOST and text.endswith(b"the end\n")


def test_what_could_not_be_written_is_written_next_time(ray_directory: Path, tmp_path: Path) -> None:
    storage = UnreliableStorage(tmp_path / "results")
    kept: dict[Path, tuple[int, int]] = {}
    storage.broken = True
    with pytest.raises(StorageError):
        keep(ray_directory, storage, "pod", kept)
    storage.broken = False
    assert keep(ray_directory, storage, "pod", kept) == 2


def test_a_pod_that_is_told_to_end_keeps_its_last_lines(ray_directory: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = [sys.executable, "-m", "cluster.ray_cluster.kept_logs", str(ray_directory), str(results)]
    log = ray_directory / "session_1" / "logs" / "job-driver-grid.log"
    environment = {"HOSTNAME": "grid-head-0", "RESNET_DIST_LOG_FORMAT": "json"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as keeping:
        assert keeping.stderr
        assert "kept 2 log files" in keeping.stderr.readline()  # it is up, and waits for five minutes
        with log.open("a") as opened:
            opened.write("Traceback: what the first attempt died of\n")
        keeping.send_signal(signal.SIGTERM)
        assert keeping.wait() == 0
    kept = (results / ".logs" / "grid-head-0" / "session_1" / "job-driver-grid.log").read_text()
    assert kept.endswith("what the first attempt died of\n")


def test_a_storage_that_cannot_be_written_is_said_and_ends_nothing(
    ray_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = UnreliableStorage(tmp_path / "results")
    storage.broken = True

    def sleep(_: float) -> None:
        if not storage.broken:
            raise KeyboardInterrupt  # as SIGTERM does
        storage.broken = False

    monkeypatch.setattr("cluster.ray_cluster.kept_logs.time.sleep", sleep)
    with caplog.at_level("INFO"):
        kept_logs.main(ray_directory, storage, "pod")
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert said[0] == "the logs of this node are not in storage" and said[1].startswith("kept 2 log files")


def test_a_storage_that_is_none_is_one_line(ray_directory: Path) -> None:
    command = [sys.executable, "-m", "cluster.ray_cluster.kept_logs", str(ray_directory), "gs://bucket"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
