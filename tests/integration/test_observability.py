"""A grid on a real Ray: Prometheus finds what the dashboard shows, and each line of a worker's log names its trial."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnet_dist.ray_metrics import COUNTERS, GAUGES, LABELS
from tests.k8s.rendering import ROOT

pytestmark = pytest.mark.integration

EXPERIMENT = """
name = "watched"
title = "Watched"

[recipe]
data = { source = "synthetic", train_limit = 200, test_limit = 20, batch_size = 20 }
network = { depth = 8, width = 4 }
schedule = { milestones = [] }
run = { epochs = 20, device = "cpu" }

[[table]]
name = "workers"
title = "Workers"

[[table.cell]]
label = "one"

[[table.cell]]
label = "two"
set = { "network.relu_after_addition" = false, "run.workers" = 2 }
"""

# Ray collects metrics every second, so that the trials may be short.
CLUSTER = """
import json, sys, ray
made = ray.init("local", num_cpus=2, include_dashboard=False, _system_config={"metrics_report_interval_ms": 1000})
node = ray.nodes()[0]
about = {"address": made.address_info["gcs_address"], "session": made.address_info["session_dir"],
         "metrics": f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"}
print(json.dumps(about), flush=True)
sys.stdin.read()
ray.shutdown()
"""
DASHBOARD = json.loads((ROOT / "k8s" / "components" / "monitoring" / "dashboard.json").read_text())
SAMPLE = re.compile(r"^(ray_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@pytest.fixture
def cluster(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A Ray cluster of this test's own: address, folder of its logs, and where its metrics are served."""
    monkeypatch.setenv("RESNET_DIST_LOG_FORMAT", "json")  # as the settings of the manifests have it
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for _ in range(4):  # Ray gives a node no more than 30 s to start, which is little where much else runs
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin and process.stdout
        with process:
            if said := process.stdout.readline():
                yield json.loads(said)
                process.stdin.close()
                return
    raise AssertionError("Ray does not start")


def scrape(url: str) -> list[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of each sample that a node serves."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return [(name, dict(LABEL.findall(labels)), float(value)) for name, labels, value in SAMPLE.findall(text)]


def asked_for(dashboard: dict[str, Any]) -> list[str]:
    """Every query of a dashboard."""
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return queries + [str(v["query"]) for v in dashboard["templating"]["list"] if v["type"] == "query"]


@pytest.mark.timeout(600)
def test_a_grid_is_seen_by_prometheus_and_in_its_logs(cluster: dict[str, str], bucket: str, tmp_path: Path) -> None:
    (tmp_path / "watched.toml").write_text(EXPERIMENT)
    command = [sys.executable, "-m", "tune_jobs", "grid", "run", str(tmp_path / "watched.toml")]
    grid = subprocess.Popen(
        [*command, "--storage", f"s3://{bucket}/results"],
        env=os.environ | {"RAY_ADDRESS": cluster["address"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: dict[str, dict[str, list[float]]] = {}
    names: set[str] = set()
    while grid.poll() is None:
        for name, labels, value in scrape(cluster["metrics"]):
            names.add(name)
            if name.startswith("ray_resnet_dist_"):
                assert labels.keys() >= set(LABELS) and labels["experiment"] == "watched"
                seen.setdefault(labels["trial"], {}).setdefault(name, []).append(value)
        time.sleep(0.3)
    assert grid.stderr
    told = grid.stderr.read()
    grid.stderr.close()
    assert grid.returncode == 0, told

    # Metrics: all of them, for the trial of one worker and for that of two.
    assert len(seen) == 2
    for values in seen.values():
        assert {f"ray_{name}" for name in GAUGES} <= values.keys()
        assert set(values["ray_resnet_dist_epochs"]) == {20}
        assert set(values["ray_resnet_dist_retries"]) == {0}
        assert set(values["ray_resnet_dist_epoch"]) <= set(range(1, 21))
        assert all(0 <= error <= 1 for error in values["ray_resnet_dist_test_error"])
        assert all(0 < seconds < 60 for seconds in values["ray_resnet_dist_step_seconds"])
        assert max(values["ray_resnet_dist_storage_requests_total"]) >= 20, "a line of metrics an epoch at least"

    # The dashboard asks for what is there. (Not here: graphics cards, for which Ray has a gauge by its own list, and
    # retries, since a counter that has counted nothing is not served.)
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = set(re.findall(r"\bray_[a-z0-9_]+(?=\{|,|\))", " ".join(asked_for(DASHBOARD)))) - {"ray_io_cluster"}
    ours = {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS}
    assert {name for name in asked if name.startswith("ray_resnet_dist_")} == ours
    assert asked - names <= {f"ray_{name}" for name in METRICS_GAUGES} | {"ray_resnet_dist_storage_retries_total"}

    # Logs: each line of ours is JSON, and says of which trial and worker.
    lines = [
        json.loads(line)
        for file in Path(cluster["session"], "logs").glob("worker-*.err")
        for line in file.read_text().splitlines()
        if "resnet_dist" in line
    ]
    assert {(line["experiment"], line["trial"]) for line in lines} == {("watched", trial) for trial in seen}
    assert sorted(line["worker"] for line in lines if " begins on " in line["message"]) == [0, 0, 1]
    assert {line["epoch"] for line in lines if line["message"].startswith("epoch")} == set(range(1, 21))
    assert {json.loads(line)["trial"] for line in told.splitlines() if "/40] " in line} == seen.keys()
