"""A Ray cluster of several hosts with their own addresses, the store and the submitting client on others.

All tests share one cluster: a head without CPUs, and workers with one each, so that a trial of two workers needs two
hosts. It asks for a token. No host sees another's files: results travel through the store.
"""

import json
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.packing import pack
from cluster.storage import open_storage
from resnet_dist.configuration import TrainingConfig
from resnet_dist.launch import Job, run_in_process
from tests.integration.hosts import REPOSITORY, SCRATCH, Host, Network, network, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
STORAGE = "s3://results/tables"

RECIPE = """
[recipe]
data = {{ source = "synthetic", train_limit = 240, test_limit = 60, batch_size = 40 }}
network = {{ depth = 8, width = 4 }}
schedule = {{ kind = "constant" }}
run = {{ epochs = {epochs}, device = "cpu", precision = "float64" }}
"""
ACROSS = """name = "across"
title = "Two workers on two hosts"
{recipe}
[[table]]
name = "workers"
title = "Workers"
[[table.cell]]
label = "two"
set = {{ "run.workers" = 2 }}
"""
RESTLESS = """name = "restless"
title = "Hosts come and go"
{recipe}
[[table]]
name = "batch"
title = "Batch"
[[table.cell]]
label = "forty"
[[table.cell]]
label = "thirty"
set = {{ "data.batch_size" = 30 }}
[[table.cell]]
label = "twenty"
set = {{ "data.batch_size" = 20 }}
[[table.cell]]
label = "twenty-four"
set = {{ "data.batch_size" = 24 }}
"""
EPOCHS, MANY_EPOCHS = 3, 40


@dataclass
class Cluster:
    """Hosts, and what the tests know of them."""

    network: Network
    logs: Path
    package: Path
    """What is uploaded: the code, and the experiments."""
    variables: dict[str, str]
    """Of every host."""

    @property
    def client(self) -> Host:
        """The host from which jobs are submitted."""
        return self.network.hosts["client"]

    @property
    def job_server(self) -> str:
        """Its URL."""
        return f"http://{self.network.hosts['head'].address}:8265"

    def add_worker(self, name: str, cpus: int) -> None:
        """A new host that joins the cluster."""
        host = self.network.add(name, **self.variables)
        head = self.network.hosts["head"].address
        self.start_ray(host, f"--address={head}:6379", f"--num-cpus={cpus}")

    def start_ray(self, host: Host, *options: str) -> None:
        """Start Ray on a host and wait until it is part of the cluster."""
        log = self.logs / f"{host.name}.log"
        command = [*RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={host.address}"]
        command += ["--object-store-memory=100000000", *options]
        for _ in range(5):  # Ray gives a node half a minute, which is little on busy processors
            process = host.start(command, log)
            wait_until(lambda: b"Ray runtime started" in log.read_bytes() or process.poll() is not None, host.name)  # noqa: B023
            if process.poll() is None:
                return
            assert "timed out during startup" in log.read_text(), log.read_text()
        pytest.fail(log.read_text())

    def ask(self, *command: str) -> str:
        """Standard output of a command of this program, on the client's host."""
        done = self.client.run([sys.executable, "-m", "tune_jobs", *command])
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def stored(self, code: str) -> Any:
        """What a piece of code, in which `storage` is the storage, leaves in `answer`, run on the client's host."""
        begin = f"import json; from cluster.storage import open_storage; storage = open_storage({STORAGE!r})\n"
        done = self.client.run([sys.executable, "-c", f"{begin}{code}\nprint(json.dumps(answer))"])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def records(self, experiment: str) -> dict[str, dict[str, Any]]:
        """Of each trial, by the last part of its name: its records, as far as they exist."""
        found: dict[str, dict[str, Any]] = self.stored(
            f"keys = [item.key for item in storage.list({experiment + '/trials/'!r}) if item.key.count('/') == 3]\n"
            "texts = {key: data.decode() for key in keys if not key.endswith('.pt') and (data := storage.get(key))}\n"
            "answer = {}\n"
            "for key, text in texts.items():\n"
            "    name = key.split('/')[-1]\n"
            "    value = [json.loads(line) for line in text.splitlines()] if name.endswith('.jsonl') else text\n"
            "    value = json.loads(text) if name.endswith('.json') else value\n"
            "    answer.setdefault(key.split('/')[2], {})[name] = value\n"
        )
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Head, two workers, store and client."""
    logs, package = tmp_path_factory.mktemp("logs"), tmp_path_factory.mktemp("package")
    with network() as hosts:
        store = hosts.add("store")
        output = logs / "store.log"
        store.start([sys.executable, "-u", str(REPOSITORY / "tests/moto_server.py"), store.address], output)
        wait_until(lambda: output.read_text().strip().isdigit(), "the store")
        variables = {
            "AWS_ENDPOINT_URL": f"http://{store.address}:{output.read_text().strip()}",
            "AWS_ACCESS_KEY_ID": "AKIAPLANTEDTESTKEY00",
            "AWS_SECRET_ACCESS_KEY": "planted",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        made = Cluster(hosts, logs, package, variables)
        pack(REPOSITORY, package)
        across, restless = RECIPE.format(epochs=EPOCHS), RECIPE.format(epochs=MANY_EPOCHS)
        (package / "across.toml").write_text(ACROSS.format(recipe=across))
        (package / "restless.toml").write_text(RESTLESS.format(recipe=restless))
        head = hosts.add("head", **variables)
        hosts.add("client", **variables)
        options = ("--port=6379", "--dashboard-host=0.0.0.0", f"--temp-dir={SCRATCH}/ray", "--num-cpus=0")
        made.start_ray(head, "--head", *options)
        for name in ("first", "second"):
            made.add_worker(name, cpus=1)
        made.stored("storage._client().create_bucket(Bucket='results'); answer = 0")
        yield made


def test_a_grid_submitted_from_another_host_trains_on_two_hosts_like_on_one(cluster: Cluster, tmp_path: Path) -> None:
    command = ["python", "-m", "tune_jobs", "grid", "run", "across.toml", "--storage", STORAGE]
    submit = ["job", "submit", "--address", cluster.job_server, "--working-dir", str(cluster.package), "--", *command]
    done = cluster.client.run([*RAY, *submit], timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr

    ((trial_id, records),) = cluster.records("across").items()
    assert records["result.json"]["workers"] == 2
    assert {machine["host"] for machine in records["provenance.json"]["machines"]} == {"first", "second"}
    assert len(records["provenance.json"]["commit"]) == 40, "the upload brings the commit along"
    assert records["provenance.json"]["commit_from"] == "build"

    # Law 1: the same in this process, on one worker.
    config = TrainingConfig.from_dict(records["config.json"]["config"])
    alone = config.override({"run.workers": 1})
    run_in_process(Job(alone, "alone", "one", lambda: open_storage(str(tmp_path))))
    assert alone.trial_id() == trial_id
    lines = (tmp_path / "alone" / "trials" / trial_id / "metrics.jsonl").read_text().splitlines()
    here = [json.loads(line) for line in lines]
    there = records["metrics.jsonl"]
    assert [line["epoch"] for line in there] == list(range(1, EPOCHS + 1))
    for name in ("train_loss", "test_loss"):
        assert [line[name] for line in there] == pytest.approx([line[name] for line in here], rel=1e-10, abs=0)
    assert [line["top1_error"] for line in there] == [line["top1_error"] for line in here]


def test_tensorboards_mirror_reads_the_curves_from_the_store(cluster: Cluster) -> None:
    names, steps = cluster.stored(
        "import pathlib, tempfile\n"
        "from cluster.mirror import Mirror\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    Mirror(storage, 'across/tb/', pathlib.Path(folder)).sync()\n"
        "    (run,) = {path.parent for path in pathlib.Path(folder).rglob('*tfevents*')}\n"
        "    events = EventAccumulator(str(run)).Reload()\n"
        "    names = events.Tags()['scalars'] + events.Tags()['tensors']\n"
        "    answer = [names, sorted({e.step for n in events.Tags()['tensors'] for e in events.Tensors(n)}\n"
        "                            | {e.step for n in events.Tags()['scalars'] for e in events.Scalars(n)})]\n"
    )
    assert any("test" in name for name in names) and steps[-1] == EPOCHS * 6


def test_a_host_that_leaves_is_survived_and_one_that_joins_is_used(cluster: Cluster) -> None:
    submitted = cluster.ask(
        *("submit", "--address", cluster.job_server, "--working-dir", str(cluster.package), "--id", "restless"),
        *("--json", "--", "grid", "run", "restless.toml", "--storage", STORAGE),
    )
    assert json.loads(submitted)["job"] == "restless"

    def begun() -> dict[str, tuple[list[str], int]]:
        """Of each trial that has begun: where each of its attempts ran, and its epochs on record."""
        return {
            trial: ([one["host"] for one in records["provenance.json"]["attempts"]], len(records["metrics.jsonl"]))
            for trial, records in cluster.records("restless").items()
            if records.keys() >= {"provenance.json", "metrics.jsonl"}
        }

    def on_second() -> bool:
        return any(places[-1] == "second" and epochs <= MANY_EPOCHS - 10 for places, epochs in begun().values())

    wait_until(on_second, "a trial under way on the second host")
    cluster.network.hosts["second"].leave()
    cluster.add_worker("late", cpus=2)

    state: dict[str, Any] = {}

    def is_over() -> bool:
        """Whether the job is over; its log is kept, for the case that it is not in time."""
        (cluster.logs / "job.log").write_text(cluster.ask("job", "logs", "restless", "--address", cluster.job_server))
        (job,) = json.loads(cluster.ask("job", "status", "restless", "--json", "--address", cluster.job_server))
        state.update(job)
        return state["status"] not in ("PENDING", "RUNNING")

    wait_until(is_over, "the grid's end")
    assert state["status"] == "SUCCEEDED", cluster.ask("job", "logs", "restless", "--address", cluster.job_server)
    ended = begun()
    assert [epochs for _, epochs in ended.values()] == [MANY_EPOCHS] * 4
    assert any(places[-1] == "late" for places, _ in ended.values()), "the host that joined is used"
    moved = [places for places, _ in ended.values() if len(places) > 1]
    assert moved and all(places[0] == "second" != places[-1] for places in moved), "its trial went on elsewhere"
    for records in cluster.records("restless").values():
        assert [line["epoch"] for line in records["metrics.jsonl"]] == list(range(1, MANY_EPOCHS + 1))
        assert records["result.json"]["attempts"] == len(records["provenance.json"]["attempts"])
