"""Hosts for tests: Linux namespaces joined by a bridge, each with an address, a name, processes and scratch of its own.

A host is a process that has been given its own network, host name, process numbers, mounts, `/run` and `/dev/shm`. All
that runs on the host dies with that process, the kernel sees to it, and so do its network and its files; and it dies
with the tests that started it. So nothing has a name that could meet another run's, and nothing can be left behind.

Root is needed. `RESNET_DIST_TEST_HOSTS=required` turns the lack of it from a skip into a failure.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = ("ip", "mount", "nsenter", "setpriv", "unshare")
SUBNET = "10.77.0"
SCRATCH = "/run"
"""Each host has a file system of its own here, the same path with other content."""

_INIT = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir /run/home /run/tmp
hostname "$1"
ip link set lo up
echo ready
while sleep 3600; do :; done
"""
_ANSWERS = """
import json, sys, traceback
names = {}
for line in sys.stdin:
    try:
        exec(json.loads(line), names)
        print(json.dumps({"answer": names["answer"]}), flush=True)
    except Exception:
        print(json.dumps({"error": traceback.format_exc()}), flush=True)
"""
_UNSHARE = ("unshare", "--net", "--uts", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child")


def require_hosts() -> None:
    """Skip the test where hosts cannot be made, or fail it where they are required."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    reason = ""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        reason = "several hosts need Linux and root, for network namespaces"
    elif missing:
        reason = f"several hosts need {', '.join(missing)} (Debian: iproute2, util-linux)"
    elif subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode:
        reason = "several hosts need the right to make namespaces, which this container lacks"
    if reason:
        assert os.environ.get("RESNET_DIST_TEST_HOSTS") != "required", reason
        pytest.skip(reason)


class Host:
    """A process whose namespaces are a host."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        command = ["setpriv", "--pdeathsig", "KILL", *_UNSHARE, "sh", "-c", _INIT, "init", name]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout and self._process.stdout.readline() == "ready\n", f"host {name} did not start"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self.init = int(children[0])
        """Number of the host's first process, as the tests see it."""
        self._commands: list[subprocess.Popen[Any]] = []
        self.environment: dict[str, str] = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": f"{SCRATCH}/home",
            "TMPDIR": f"{SCRATCH}/tmp",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            # Gloo would look the host name up; on these hosts it is in no directory.
            "GLOO_SOCKET_IFNAME": "eth0",
            # Ray runs trials at a low priority, which takes them for ever where processors are busy.
            "RAY_worker_niceness": "0",
        }

    def start(self, command: list[str], output: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command on the host, its output in a file of the tests. It ends with the host at the latest."""
        with output.open("wb") as file:
            started = subprocess.Popen(
                self._inside(command),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env=self.environment | variables,
            )
        self._commands.append(started)
        return started

    def run(self, command: list[str], timeout: float = 600, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the host and wait for its end."""
        return subprocess.run(
            self._inside(command),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=REPOSITORY,
            env=self.environment | variables,
        )

    def python(self) -> "Python":
        """A Python that runs on the host until the host leaves."""
        process = subprocess.Popen(
            self._inside([sys.executable, "-c", _ANSWERS]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=self.environment,
        )
        self._commands.append(process)
        return Python(process)

    def leave(self) -> None:
        """End the host and everything on it at once, as when its power fails."""
        for process in (self._process, *self._commands):
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
            process.wait()

    def _inside(self, command: list[str]) -> list[str]:
        kinds = ("--net", "--uts", "--mount", "--pid")
        return ["nsenter", "--target", str(self.init), *kinds, f"--wd={REPOSITORY}", "--", *command]


class Python:
    """A Python on a host that runs one piece of code after the other: what it takes to start, it takes once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, code: str) -> Any:
        """Run code, which finds the names that earlier code has left; returns what it leaves in `answer`, as JSON."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps(code), file=self._process.stdin, flush=True)
        said = json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')
        assert "error" not in said, said["error"]
        return said["answer"]


class Network:
    """A bridge and the hosts on it."""

    def __init__(self) -> None:
        self.switch = Host("switch")
        self.hosts: dict[str, Host] = {}
        self._ip(self.switch, "link add bridge type bridge")
        self._ip(self.switch, "link set bridge up")

    def add(self, name: str, **variables: str) -> Host:
        """A new host with the next address and these environment variables."""
        host = self.hosts[name] = Host(name)
        number = len(self.hosts)
        host.address = f"{SUBNET}.{number}"
        host.environment |= variables
        self._ip(self.switch, f"link add port{number} type veth peer name eth0 netns {host.init}")
        self._ip(self.switch, f"link set port{number} master bridge up")
        self._ip(host, f"address add {host.address}/24 dev eth0")
        self._ip(host, "link set eth0 up")
        self._ip(host, f"route add default via {SUBNET}.254")  # Ray asks for the way to the world to know its address
        return host

    def close(self) -> None:
        """End all hosts."""
        for host in [*self.hosts.values(), self.switch]:
            host.leave()

    @staticmethod
    def _ip(host: Host, command: str) -> None:
        subprocess.run(["nsenter", "--target", str(host.init), "--net", "ip", *command.split()], check=True)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network without hosts; at the end those that were added are gone, whatever happened."""
    require_hosts()
    joined = Network()
    try:
        yield joined
    finally:
        joined.close()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
    """Wait for something that takes time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.3)
