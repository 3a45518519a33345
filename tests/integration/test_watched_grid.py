"""A grid in a real S3 server, watched while it runs on a real Ray: by its owner, by Prometheus, in its logs.

It runs once; each test states what was seen. It is complete at its end, with nothing but the layout in storage and no
secret anywhere.
"""

import contextlib
import io
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from cluster.tensorboard.mirror import Mirror
from resnet_dist.ray_metrics import COUNTERS, GAUGES, LABELS
from tests.integration.test_grid import HEAD
from tests.k8s.rendering import ROOT
from tests.plain_python import plain_python
from tests.s3_fixtures import ACCESS_KEY, SECRET_KEY, set_environment, use_prefix_alone
from tune_jobs.command_line import main

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

EPOCHS = 20
"""Of the two trials whose metrics are looked for: long enough for Ray to collect them."""
CELLS = {
    "One worker": f'"run.epochs" = {EPOCHS}',
    "Two workers": f'"batch_norm.momentum" = "dynamic", "run.workers" = 2, "run.epochs" = {EPOCHS}',
    "No ReLU": '"network.relu_after_addition" = false',
    "After": '"network.batch_norm_position" = "after"',
    "After, no ReLU": '"network.batch_norm_position" = "after", "network.relu_after_addition" = false',
    "RMSprop": '"solver.kind" = "rmsprop"',
}
PREFIX = "my results/größe"
OF_A_FINISHED_TRIAL = {"config.json", "provenance.json", "metrics.jsonl", "model.pt", "result.json"}
LAYOUT = re.compile(
    r"small/(experiment\.json"
    r"|trials/[0-9a-f]{16}/(config\.json|provenance\.json|source\.patch|metrics\.jsonl|model\.pt|result\.json)"
    r"|tb/[^/]+(/[^/]+)*/events\.out\.tfevents\.\d+\.resnet_dist"
    r"|report/(report\.md|report\.html|tables\.csv|results\.csv|images\.csv|figures/[^/]+\.(svg|png))"
    r"|\.lease/\d+\.json"
    r"|\.ray/.+)"
)

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
LOG_AS_TEXT = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL): ")
"""How lines of ours begin that are not JSON. Ray's own, and tracebacks with whatever paths in them, do not."""


@dataclass
class Watched:
    """A grid that has run, and what was seen of it meanwhile."""

    storage: BrowsableStorage
    mirror: Mirror
    experiment: Path
    bucket: str
    keys: tuple[str, str]
    """Of the user as whom it ran."""
    cluster: dict[str, str]
    """Address, folder of its session, and where its metrics are served."""
    ray_directory: Path
    files: Path
    """Folder of all that is not in storage and not Ray's: logs, spool, caches, the mirror."""
    told: str = ""
    """What the command printed."""
    half_done: set[str] = field(default_factory=set)
    """Ways of reading it that have seen it half done."""
    names: set[str] = field(default_factory=set)
    """Of all metrics."""
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Of each trial: the values of each metric of ours, one after the other."""

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        """The trials by their ids, as `grid status` has them."""
        status = command_output("grid", "status", "small", "--storage", self.storage.uri)
        return {trial["trial"]: trial for trial in status["trials"]}

    @property
    def long(self) -> dict[str, int]:
        """The trials that are long enough for their metrics to be seen, and how many workers each has."""
        configs = {trial: json.loads(self.record(trial, "config.json"))["config"] for trial in self.trials}
        return {t: config["run"]["workers"] for t, config in configs.items() if config["run"]["epochs"] == EPOCHS}

    def record(self, trial: str, name: str) -> bytes:
        """A record of a trial."""
        return self.storage.get(f"small/trials/{trial}/{name}") or b""

    def look(self) -> None:
        """Read it in the ways that its owner would, as long as there is one that has not seen it half done."""
        if len(self.half_done) == 3 or self.storage.get("small/experiment.json") is None:
            return
        unfinished = [trial["name"] for trial in self.trials.values() if trial["state"] != "finished"]
        if not 0 < len(unfinished) < len(CELLS):
            return
        self.half_done.add("status")
        self.mirror.sync()
        if any(list((self.mirror.directory / name).rglob("events.out.tfevents.*")) for name in unfinished):
            self.half_done.add("events")
        reported = command_output("grid", "report", "small", "--storage", self.storage.uri)["trials"]
        if 0 < reported["finished"] < len(CELLS):
            self.half_done.add("report")

    def scrape(self) -> None:
        """Read the metrics of the node, as Prometheus would."""
        with urllib.request.urlopen(self.cluster["metrics"], timeout=100) as answer:
            text = answer.read().decode()
        for name, labels, value in SAMPLE.findall(text):
            self.names.add(name)
            if name.startswith("ray_resnet_dist_"):
                about = dict(LABEL.findall(labels))
                assert about.keys() >= set(LABELS) and about["experiment"] == "small"
                self.metrics.setdefault(about["trial"], {}).setdefault(name, []).append(float(value))


@pytest.fixture(scope="module")
def grid(
    s3_endpoint: str,
    administrator: "S3Client",
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Watched]:
    """The grid, from its launch to its end; the cluster stays until the tests are over."""
    files = tmp_path_factory.mktemp("watched")
    bucket = f"results-{secrets.token_hex(6)}"
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray_directory,
    ):
        set_environment(s3_endpoint, patch, files)
        administrator.create_bucket(Bucket=bucket)
        keys = keys_of_a_user(bucket, administrator, request, patch)
        for name in ("CACHE", "SPOOL"):
            patch.setenv(f"RESNET_DIST_{name}", str(files / name.lower()))
        patch.setenv("RESNET_DIST_LOG_FORMAT", "json")  # as the settings of the manifests have it
        patch.setenv("RAY_TMPDIR", ray_directory)  # short, since the names of Ray's sockets have a limit
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.setenv("PYTHONPATH", str(ROOT))
        experiment = files / "small.toml"
        cells = (f'[[table.cell]]\nlabel = "{label}"\nset = {{ {settings} }}\n' for label, settings in CELLS.items())
        experiment.write_text(HEAD % {"epochs": 2} + "".join(cells))
        with ray_cluster() as cluster:
            storage = open_storage(f"s3://{bucket}/{PREFIX}")
            mirror = Mirror(storage, "small/tb/", files / "mirror")
            watched = Watched(storage, mirror, experiment, bucket, keys, cluster, Path(ray_directory), files)
            run(watched)
            yield watched


def keys_of_a_user(
    bucket: str, owner: "S3Client", request: pytest.FixtureRequest, patch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """The keys in the environment: of a user who may use one prefix alone, where the server tells users apart."""
    if request.getfixturevalue("s3_kind") != "ceph":
        return ACCESS_KEY, SECRET_KEY
    return use_prefix_alone(request.getfixturevalue("ceph"), owner, bucket, PREFIX, patch)


@contextlib.contextmanager
def ray_cluster() -> Iterator[dict[str, str]]:
    """A Ray cluster in a process of its own; what it says of itself."""
    for _ in range(4):  # Ray gives a node no more than 30 s to start, which is little where much else runs
        process = subprocess.Popen(
            [plain_python(), "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin and process.stdout
        with process:
            if said := process.stdout.readline():
                yield json.loads(said)
                process.stdin.close()
                return
    raise AssertionError("Ray does not start")


def run(watched: Watched) -> None:
    """Run the grid and watch it to its end."""
    log = watched.files / "log"
    command = [sys.executable, "-m", "tune_jobs", "grid", "run", str(watched.experiment)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, "--storage", watched.storage.uri],
            env=os.environ | {"RAY_ADDRESS": watched.cluster["address"]},
            stdout=output,
            stderr=output,
        ) as grid,
    ):
        try:
            while grid.poll() is None:
                watched.scrape()
                watched.look()
                time.sleep(0.5)
        finally:
            grid.kill()
    watched.told = log.read_text()
    assert grid.returncode == 0, watched.told


def command_output(*arguments: str) -> dict[str, Any]:
    """What a command says as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([*arguments, "--json"]) == 0
    return dict(json.loads(said.getvalue()))


def holders(root: Path, secret: bytes) -> list[Path]:
    """Files below `root` that hold `secret`."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if secret in path.read_bytes()]


def test_it_is_read_while_it_runs(grid: Watched) -> None:
    assert grid.half_done == {"status", "report", "events"}


def test_every_trial_is_finished_on_the_workers_that_it_was_to_have(grid: Watched) -> None:
    assert [trial["state"] for trial in grid.trials.values()] == ["finished"] * len(CELLS)
    workers = [json.loads(grid.record(trial, "result.json"))["workers"] for trial in grid.trials]
    assert sorted(workers) == [1] * (len(CELLS) - 1) + [2]


def test_tensorboards_copy_has_every_event_file(grid: Watched) -> None:
    grid.mirror.sync()
    copied = {f"small/tb/{path.relative_to(grid.mirror.directory)}" for path in grid.mirror.directory.rglob("*.*.*.*")}
    assert copied == {item.key for item in grid.storage.list("small/tb/")}
    assert len({Path(key).parent for key in copied}) == len(CELLS)


def test_the_bucket_holds_the_layout_and_nothing_else(grid: Watched, administrator: "S3Client") -> None:
    present = [item.key for item in grid.storage.list("")]
    assert [key for key in present if not LAYOUT.fullmatch(key)] == []
    for trial in grid.trials:
        folder = f"small/trials/{trial}/"
        names = {item.key.removeprefix(folder) for item in grid.storage.list(folder)}
        assert names - {"source.patch"} == OF_A_FINISHED_TRIAL
    others = everything(grid, administrator) - {f"{PREFIX}/{key}" for key in present}
    assert {key for key in others if not key.startswith(f"{PREFIX}/small/.ray/")} == set()  # Ray marks its folders
    assert any(key.startswith("small/.ray/") for key in present)


def everything(grid: Watched, administrator: "S3Client") -> set[str]:
    """The key of every object in the bucket."""
    pages = administrator.get_paginator("list_objects_v2").paginate(Bucket=grid.bucket)
    return {item["Key"] for page in pages for item in page.get("Contents", ())}


def test_no_secret_is_in_an_object_a_log_or_a_file_of_rays(grid: Watched, administrator: "S3Client") -> None:
    assert list(grid.ray_directory.glob("**/raylet.out"))
    reader = boto3.session.Session().client("s3", region_name="us-east-1")  # who wrote them: they are not the owner's
    objects = {
        key: reader.get_object(Bucket=grid.bucket, Key=key)["Body"].read() for key in everything(grid, administrator)
    }
    for secret in (key.encode() for key in grid.keys):
        assert [key for key, content in objects.items() if secret in content] == []
        assert holders(grid.files, secret) == []
        assert holders(grid.ray_directory, secret) == []


def test_prometheus_finds_every_metric_of_a_trial_of_one_worker_and_of_two(grid: Watched) -> None:
    assert sorted(grid.long.values()) == [1, 2]
    for trial in grid.long:
        values = grid.metrics[trial]
        assert {f"ray_{name}" for name in GAUGES} <= values.keys()
        assert set(values["ray_resnet_dist_epochs"]) == {EPOCHS}
        assert set(values["ray_resnet_dist_retries"]) == {0}
        assert set(values["ray_resnet_dist_epoch"]) <= set(range(1, EPOCHS + 1))
        assert all(0 <= error <= 1 for error in values["ray_resnet_dist_test_error"])
        assert all(seconds > 0 for seconds in values["ray_resnet_dist_step_seconds"])
        assert max(values["ray_resnet_dist_storage_requests_total"]) >= EPOCHS, "a line of metrics an epoch at least"


def asked_for(dashboard: dict[str, Any]) -> list[str]:
    """Every query of a dashboard."""
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return queries + [str(v["query"]) for v in dashboard["templating"]["list"] if v["type"] == "query"]


def test_the_dashboard_asks_for_what_is_there(grid: Watched) -> None:
    """Not here: graphics cards, for which Ray has a gauge by its own list, and retries, of which there are none."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = set(re.findall(r"\bray_[a-z0-9_]+(?=\{|,|\))", " ".join(asked_for(DASHBOARD)))) - {"ray_io_cluster"}
    ours = {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS}
    assert {name for name in asked if name.startswith("ray_resnet_dist_")} == ours
    assert asked - grid.names <= {f"ray_{name}" for name in METRICS_GAUGES} | {"ray_resnet_dist_storage_retries_total"}


def test_each_line_of_ours_in_a_workers_log_is_json_and_names_its_trial_and_worker(grid: Watched) -> None:
    logs = Path(grid.cluster["session"], "logs").glob("worker-*.err")
    lines = [line for file in logs for line in file.read_text().splitlines()]
    assert [line for line in lines if LOG_AS_TEXT.match(line)] == []
    ours = [json.loads(line) for line in lines if line.startswith("{")]
    assert {(line["experiment"], line["trial"]) for line in ours} == {("small", trial) for trial in grid.trials}
    for trial, workers in grid.long.items():
        of_trial = [line for line in ours if line["trial"] == trial]
        began = [line["worker"] for line in of_trial if " begins on " in line["message"]]
        assert sorted(began) == list(range(workers))
        epochs = [line["epoch"] for line in of_trial if line["message"].startswith("epoch")]
        assert epochs == list(range(1, EPOCHS + 1))


def test_each_line_of_progress_names_its_trial(grid: Watched) -> None:
    told = [json.loads(line) for line in grid.told.splitlines() if line.startswith("{")]
    assert {line["trial"] for line in told if re.match(r"\[ *\d+/\d+\] ", line["message"])} == grid.trials.keys()
