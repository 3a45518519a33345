"""A Ray cluster whose nodes are hosts with their own addresses, the store and the submitting client on others.

The head has no CPUs; it is where the processes wait that start worker groups. Workers have one CPU each, so that a
trial of two workers needs two hosts. The cluster asks for a token. No host sees another's files: results travel through
the store.
"""

import contextlib
import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.ray_cluster.connection import DRIVER_RESOURCE
from tests.integration.hosts import REPOSITORY, SCRATCH, Host, Network, network, wait_until
from tests.plain_python import plain_python

RAY = [plain_python(), "-m", "ray.scripts.scripts"]
STORAGE = "s3://results/tables"
STORE_PORT = 9000

_AT_HAND = f"""
import contextlib, io, json
from cluster.storage.opening import open_storage
from tune_jobs.command_line import main
storage = open_storage({STORAGE!r})

known = {{}}

def read(name, text):
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text) if name.endswith(".json") else text

def records(experiment):
    found = {{}}
    for key, _, version in storage.list(experiment + "/trials/"):
        trial, _, name = key.split("/", 2)[2].partition("/")
        if name.startswith("checkpoints/") and name.endswith("/manifest.json"):
            found.setdefault(trial, {{}}).setdefault("checkpoints", []).append(int(name.split("/")[1]))
        if "/" in name or name.endswith(".pt"):
            continue
        if known.get(key, ("", None))[0] != version and (data := storage.get(key)):
            known[key] = version, read(name, data.decode())
        if key in known:
            found.setdefault(trial, {{}})[name] = known[key][1]
    return found

def said(command):
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        returned = main(command)
    return returned, printed.getvalue()

storage._client().create_bucket(Bucket="results")
answer = None
"""


class RayHosts:
    """The hosts, and what the tests know of them."""

    def __init__(self, hosts: Network, logs: Path) -> None:
        """Start all but the workers: store, client and head."""
        self.network, self.logs = hosts, logs
        store = hosts.add("store")
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://{store.address}:{STORE_PORT}",
            "AWS_ACCESS_KEY_ID": "AKIAPLANTEDTESTKEY00",
            "AWS_SECRET_ACCESS_KEY": "planted",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # A host that is gone is missed after 5 s instead of 15, a launch is seen to live after 3 instead of 15.
            "RAY_health_check_period_ms": "1000",
            "RESNET_DIST_LEASE_SECONDS": "120",
        }
        """Of every host but the store's."""
        self._store_log = logs / "store.log"
        moto = [sys.executable, "-u", str(REPOSITORY / "tests/moto_server.py"), store.address, str(STORE_PORT)]
        store.start(moto, self._store_log)
        self.head = hosts.add("head", **self.variables)
        self.client = hosts.add("client", **self.variables)
        """The host from which jobs are submitted."""
        own = ("--head", "--port=6379", "--dashboard-host=0.0.0.0", f"--temp-dir={SCRATCH}/ray")
        self._start_ray(self.head, *own, "--num-cpus=0", f'--resources={{"{DRIVER_RESOURCE}": 1}}')
        wait_until(lambda: self._store_log.read_text().startswith(f"{STORE_PORT}\n"), "the store")
        self._python = self.client.python()
        self._python.run(_AT_HAND)

    @property
    def job_server(self) -> str:
        """Its URL."""
        return f"http://{self.head.address}:8265"

    def add_workers(self, *names: str) -> None:
        """New hosts that join the cluster, at the same time."""
        added = [self.network.add(name, **self.variables) for name in names]
        options = (f"--address={self.head.address}:6379", "--num-cpus=1")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: self._start_ray(host, *options), added))

    def _start_ray(self, host: Host, *options: str) -> None:
        """Start Ray on a host and wait until it is part of the cluster."""
        log = self.logs / f"{host.name}.log"
        command = [*RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={host.address}"]
        command += ["--object-store-memory=100000000", *options]
        # A head serves Ray's client, too, by a process that starts beside it and takes it along when it fails.
        client = f"if [[ {host.name} = head ]]; then : < /dev/tcp/{host.address}/10001; fi"

        def is_up() -> bool:
            return b"Ray runtime started" in log.read_bytes() and not host.run(["bash", "-c", client]).returncode

        for _ in range(5):  # Ray gives each half a minute, which is little on busy processors
            process = host.start(command, log)
            wait_until(lambda: process.poll() is not None or is_up(), host.name)  # noqa: B023
            if process.poll() is None:
                return
            said = log.read_text()
            assert "timed out during startup" in said or "ray_client_server" in said, said
        raise AssertionError(log.read_text())

    def ask(self, *command: str, code: int = 0) -> str:
        """What a command of this program prints on the client's host, where the program is loaded already."""
        returned, printed = self._python.run(f"answer = said({list(command)!r})")
        assert returned == code, printed
        return str(printed)

    def stored(self, code: str) -> Any:
        """What a piece of code, in which `storage` is the storage, leaves in `answer`, run on the client's host."""
        return self._python.run(code)

    def records(self, experiment: str) -> dict[str, dict[str, Any]]:
        """Of each trial, by the last part of its name: its records, and the steps of its `checkpoints`."""
        found: dict[str, dict[str, Any]] = self.stored(f"answer = records({experiment!r})")
        return found

    def fetched(self, part: str) -> Counter[tuple[str, str]]:
        """How often each host has read each object in whose key `part` stands: by host's name and the key's end."""
        names = {host.address: name for name, host in self.network.hosts.items()}
        asked = [line.split() for line in self._store_log.read_text().splitlines() if " GET " in line]
        return Counter((names[words[0]], words[2].rpartition("/")[2]) for words in asked if part in words[2])


@contextlib.contextmanager
def ray_hosts(logs: Path) -> Iterator[RayHosts]:
    """A cluster without workers; at the end nothing is left of it."""
    with network() as hosts:
        yield RayHosts(hosts, logs)
