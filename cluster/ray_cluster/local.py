"""A Ray cluster of several nodes on this machine, for trying out: `cluster up`, `cluster down`.

Each node is one `ray start --block` in a session of its own, so that what it starts can be told from every other Ray on
the machine. `cluster.json` in the cache directory records the sessions by process number and start time, and `down`
ends those and nothing else. The cluster asks for a token, which lies in a file that only this user can read.

Each node has a temporary directory of its own, as a host has. Left to itself Ray gives all of them the head's, and a
node that needs a job's upload for the first time then replaces it under the job that runs in it.
"""

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.processes import Process, end, of_session, start_time
from cluster.ray_cluster.core_settings import require_core_settings
from cluster.ray_cluster.own_ray import TIMED_OUT, require_directory, temporary_directory
from resnet_dist.cache_directory import cache_directory
from resnet_dist.errors import UserError

START_SECONDS = 300.0
"""How long all nodes together may take to start."""
NODE_BYTES = 256 * 2**20
"""Memory that a node's own processes take at least."""
PREFIX = "rd-"
"""How the name of a cluster's directory begins: `down` deletes no other, whatever the record says."""
DASHBOARD_PORT = 8265


@dataclass(frozen=True)
class LocalCluster:
    """A cluster that `up` started."""

    dashboard: str
    """URL of the dashboard and the job server."""
    address: str
    """host:port by which Ray knows the cluster."""
    directory: str
    """The token, and each node's log and temporary directory, by its number; the head is 0."""
    nodes: tuple[Process, ...] = ()
    """The process that began each node's session, the head's first."""

    @property
    def token_path(self) -> Path:
        """The file that holds the token."""
        return Path(self.directory, "token")

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in; it names the token's file, not the token."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_path)}

    @property
    def is_running(self) -> bool:
        """Whether its head runs."""
        return bool(self.nodes) and self.nodes[0].is_alive

    def use_token(self) -> None:
        """Let this process in, unless it has been told otherwise."""
        if "RAY_AUTH_MODE" in os.environ:
            return
        os.environ.update(self.environment)
        if "ray" in sys.modules:  # which has looked already whether a token is wanted
            from ray import _raylet

            core: Any = _raylet  # which has no type of its own
            core.Config.initialize("")
            core.AuthenticationTokenLoader.instance().reset_cache()


def running_cluster() -> LocalCluster | None:
    """The cluster that `up` started here, if it runs."""
    cluster = _recorded()
    return cluster if cluster and cluster.is_running else None


def up(nodes: int, cpus: int, on_node: Callable[[int], None] = lambda _: None) -> LocalCluster:
    """Start a cluster of `nodes` nodes, the head among them, each with `cpus` CPUs.

    `on_node` is told which one is being started, from 1 on. Raises a `UserError` if there is no place for so many, one
    runs already or a node does not start; nothing of this one is left then.
    """
    if not sys.platform.startswith("linux"):
        raise UserError("cluster up needs Linux, whose /proc tells which processes are its own")
    if running := running_cluster():
        raise UserError(f"a cluster runs already, at {running.dashboard}; use it, or end it with `cluster down`")
    require_core_settings()
    place = _place(nodes)
    down()  # what is left of one whose head has died
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    with _interrupted_start(directory):
        cluster = _new(directory)
        _record(cluster)
        deadline = time.monotonic() + START_SECONDS
        dashboard, client = _free_port(DASHBOARD_PORT), _free_port(10001)
        cluster = replace(cluster, dashboard=f"http://127.0.0.1:{dashboard}")
        head = ["--head", "--port=0", "--dashboard-host=127.0.0.1"]
        head += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        on_node(1)
        cluster = _start_node(cluster, [*head, f"--num-cpus={cpus}"], deadline, client)
        cluster = replace(cluster, address=Path(directory, "0", "ray_current_cluster").read_text().strip())
        for number in range(2, nodes + 1):
            on_node(number)
            # The machine's GPUs are the head's: each node would offer all of them.
            node = [f"--address={cluster.address}", f"--num-cpus={cpus}", "--num-gpus=0"]
            cluster = _start_node(cluster, node, deadline)
        _record(cluster)
    return cluster


def _place(nodes: int) -> Path:
    """Where the directory of a cluster of so many nodes goes. Raises a `UserError` if there is no place for it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if nodes > 1 and nodes * NODE_BYTES > memory:
        raise UserError(
            f"--nodes {nodes}: that many take more memory than this machine's {memory / 2**30:.0f} GiB; give "
            f"{max(1, memory // NODE_BYTES)} or fewer, and --cpus for more places on each"
        )
    place = temporary_directory()
    require_directory(place / f"{PREFIX}{'x' * 8}" / str(nodes - 1))  # as `mkdtemp` names it
    place.mkdir(parents=True, exist_ok=True)
    return place


def down() -> LocalCluster | None:
    """End what `up` started, and nothing else; returns it, or None if there was nothing."""
    cluster = _recorded()
    if cluster is None:
        return None
    # Jobs first, which let go of what they hold. Ray's own processes take ten seconds over it for nothing.
    end(filter(_is_of_a_job, _processes(cluster)))
    end(_processes(cluster), patience=1.0)
    # What a process started while it was being ended.
    end(_processes(cluster), patience=1.0)
    shutil.rmtree(cluster.directory, ignore_errors=True)
    _record_path().unlink(missing_ok=True)
    return cluster


def _processes(cluster: LocalCluster) -> list[Process]:
    return [process for leader in reversed(cluster.nodes) for process in of_session(leader)]


def _is_of_a_job(process: Process) -> bool:
    """Whether Ray has started it as a job's command, or that has started it in turn."""
    try:
        return b"RAY_JOB_CONFIG_JSON_ENV_VAR=" in Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:
        return False


@contextmanager
def _interrupted_start(directory: Path) -> Iterator[None]:
    """A start that fails, or is interrupted, leaves nothing behind."""
    try:
        yield
    except BaseException:
        down()
        shutil.rmtree(directory, ignore_errors=True)  # of one that could not be put on record, either
        raise


def _new(directory: Path) -> LocalCluster:
    cluster = LocalCluster("", "", str(directory))
    descriptor = os.open(cluster.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return cluster


def _start_node(cluster: LocalCluster, options: list[str], deadline: float, client: int | None = None) -> LocalCluster:
    """Start a node and wait until it belongs to the cluster.

    `client` is the port of the head's server for Ray's client, which takes the head along when it fails to start.
    """
    while True:
        own = Path(cluster.directory, str(len(cluster.nodes)))
        log = own.with_suffix(".log")
        cluster = _spawn(cluster, [*options, f"--temp-dir={own}"], log)
        while cluster.nodes[-1].is_alive:
            if b"Ray runtime started" in log.read_bytes() and (client is None or _listens(client)):
                return cluster
            if time.monotonic() > deadline:
                raise UserError(f"the cluster did not start within {START_SECONDS:.0f} s; try fewer nodes")
            time.sleep(0.2)
        said = log.read_text(errors="replace").strip().splitlines()
        # Ray gives each half a minute, which is too little where processors are busy.
        if not any(TIMED_OUT in line or "ray_client_server" in line for line in said):
            raise UserError(f"a node did not start: {said[-1].strip()[:200] if said else 'it does not say why'}")
        end(of_session(cluster.nodes[-1]), patience=2.0)
        cluster = replace(cluster, nodes=cluster.nodes[:-1])


def plain_python(directory: str) -> Path:
    """This Python by a path that a shell may have without quotes, as Ray has it where it starts workers and servers."""
    here = Path(sys.executable)
    if shlex.quote(str(here)) == str(here):
        return here
    link = Path(directory, "python")
    if not link.is_symlink():
        link.symlink_to(here.parent.parent)  # a virtual environment is known by what lies beside `bin`
    return link / here.parent.name / here.name


def _spawn(cluster: LocalCluster, options: list[str], log: Path) -> LocalCluster:
    """Start a node's process in a session of its own, and put it on record before anything else can happen."""
    # Ports that are fixed by default would meet those of the other nodes.
    free = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    python = plain_python(cluster.directory)
    command = [str(python), "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    path = os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath)))  # a job's `python`
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--node-ip-address=127.0.0.1", *free, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment | cluster.environment | {"PATH": path},
        )
    cluster = replace(cluster, nodes=(*cluster.nodes, Process(process.pid, start_time(process.pid) or 0)))
    _record(cluster)
    return cluster


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def _free_port(wanted: int) -> int:
    for port in (*range(wanted, wanted + 20), 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise UserError("no port is free on this machine")


def _record_path() -> Path:
    return cache_directory() / "cluster.json"


def _record(cluster: LocalCluster) -> None:
    path = _record_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(json.dumps(asdict(cluster), indent=1))
        path.with_suffix(".new").rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; set RESNET_DIST_CACHE to another directory") from error


def _recorded() -> LocalCluster | None:
    try:
        plain = json.loads(_record_path().read_bytes())
        nodes = tuple(Process(*map(int, node)) for node in plain["nodes"])
        ours = Path(plain["directory"]).name.startswith(PREFIX)
        return LocalCluster(plain["dashboard"], plain["address"], plain["directory"], nodes) if ours else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
