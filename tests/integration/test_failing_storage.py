"""Storage that fails while a run or a grid trains: one line says so, it goes on, Ctrl-C ends it, no epoch is lost."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.storage.opening import open_storage
from tests.integration.test_grid import HEAD
from tests.s3_proxy import S3Proxy, s3_proxy
from tune_jobs.command_line import main

pytestmark = pytest.mark.integration

RUN = """
[data]
source = "synthetic"
train_limit = 400
test_limit = 100
batch_size = 40
[network]
depth = 8
width = 4
[schedule]
milestones = []
[run]
epochs = 5000
checkpoint_epochs = 1
device = "cpu"
"""
GRID = HEAD % {"epochs": 5000} + '[[table.cell]]\nlabel = "one"\n'
TIMEOUT = 2
"""Seconds for which an operation of storage is tried."""
RAYS_STATE = "Ray's own state is not kept for the time being"
INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"


@pytest.fixture
def proxy(bucket: str, s3_environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    for name in ("CACHE", "SPOOL"):
        monkeypatch.setenv(f"RESNET_DIST_{name}", str(tmp_path / name.lower()))
    with s3_proxy(s3_environment) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("RESNET_DIST_STORAGE_TIMEOUT", str(TIMEOUT))
        yield running


class Running:
    """A command whose output goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def epochs(self) -> int:
        """The newest epoch that it has told of."""
        return max((int(epoch) for epoch in re.findall(r"epoch +(\d+)", self.log.read_text())), default=0)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait; the test's time limit ends it otherwise."""
        while not happened():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def interrupt(self) -> list[str]:
        """Press Ctrl-C; the lines that followed, but for epochs and what Tune writes when it likes."""
        before = len(self.lines)
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        return [line for line in self.lines[before:] if not re.search(rf"epoch +\d|{RAYS_STATE}", line)]


@contextlib.contextmanager
def running(log: Path, *arguments: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "tune_jobs", *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, process_group=0) as process,
    ):
        try:
            yield Running(process, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a failing start leaves behind, too


def fail_and_hang(proxy: S3Proxy, run: Running) -> None:
    """Let storage know nothing of a bucket for some epochs, then let it hang."""
    run.until(lambda: run.epochs >= 2)
    proxy.refuse = lambda method, path: 404
    run.until(lambda: any("knows no such bucket" in line for line in run.lines))
    before = run.epochs
    run.until(lambda: run.epochs > before + 2)
    proxy.refuse = lambda method, path: 0
    proxy.flowing.clear()
    hanging = sum(proxy.requests.values())
    run.until(lambda: sum(proxy.requests.values()) > hanging)


def require_epochs(proxy: S3Proxy, uri: str, experiment: str, told: int) -> None:
    """Send what waits, and find the epochs that the run told of."""
    proxy.flowing.set()
    assert main(["storage", "flush", uri]) == 0
    storage = open_storage(uri)
    (metrics,) = [item.key for item in storage.list(f"{experiment}/trials/") if item.key.endswith("metrics.jsonl")]
    rows = [json.loads(line) for line in (storage.get(metrics) or b"").splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= told


def test_a_run_whose_storage_hangs_ends_on_ctrl_c_within_five_seconds_and_keeps_its_epochs(
    bucket: str, proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, uri = tmp_path / "run.toml", f"s3://{bucket}/results"
    config.write_text(RUN)
    monkeypatch.setenv("RESNET_DIST_STORAGE_TIMEOUT", "100")  # whoever waits for the try that hangs waits for long
    with running(tmp_path / "log", "train", "--config", str(config), "--storage", uri, "--name", "one") as run:
        fail_and_hang(proxy, run)
        told, started = run.epochs, time.monotonic()
        assert run.interrupt() == [INTERRUPTED]
        taken = time.monotonic() - started
    assert run.process.returncode == 130
    assert taken < 60, "5 seconds for what is under way, and what a busy machine adds"
    assert sum("knows no such bucket" in line for line in run.lines) == 1
    require_epochs(proxy, uri, "one", told)


def test_so_does_a_grid(bucket: str, proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, uri = tmp_path / "small.toml", f"s3://{bucket}/results"
    experiment.write_text(GRID)
    monkeypatch.setenv("RESNET_DIST_STORAGE_TIMEOUT", "100")  # whoever waits for the try that hangs waits for long
    with running(tmp_path / "log", "grid", "run", str(experiment), "--seeds", "1", "--storage", uri) as grid:
        fail_and_hang(proxy, grid)
        told, started = grid.epochs, time.monotonic()
        assert grid.interrupt() == [INTERRUPTED]
        taken = time.monotonic() - started
    assert grid.process.returncode == 130
    assert taken < 60, "as above"
    assert sum("trials go on, and their records wait on disk" in line for line in grid.lines) == 1
    assert sum(RAYS_STATE in line for line in grid.lines) <= 1
    assert not any("Traceback" in line for line in grid.lines)
    require_epochs(proxy, uri, "small", told)
