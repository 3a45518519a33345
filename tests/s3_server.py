"""A throw-away S3 server on this machine: Ceph's gateway from Debian's packages, for tests, benchmarks and trying out.

`python -m tests.s3_server` (`make s3`) runs one in the foreground until Ctrl-C. It is one node without redundancy:
a monitor, a store that keeps objects in memory, and the gateway, on free ports of the loopback address. Everything
lies in a temporary directory and is gone at the end. If this process is killed, the kernel ends the three as well.
"""

import argparse
import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from resnet_dist.errors import UserError

PACKAGES = ("ceph-mon", "ceph-osd", "radosgw", "ceph-common")
PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool", "setpriv")

ACCESS_KEY, SECRET_KEY = "trying-out", "trying-out-secret"
"""Of whoever tries the server out; tests have keys of their own."""
DNS_NAME = "localhost"
"""Buckets can also be addressed as hosts below this name: http://<bucket>.localhost:<port>/."""

START_TIMEOUT = 90.0
"""Seconds for each step of a start; all of them take two or three together on an idle machine."""
START_ATTEMPTS = 3
PORTS = range(20_000, 32_000)
"""Below those that Linux gives out by itself, so that only another such server can take a port that was found free."""
GIB = 2**30


class _StartError(Exception):
    """A daemon ended or did not answer; the text is the end of its log."""


def missing_programs() -> list[str]:
    """The programs that a server needs and this machine lacks."""
    return [program for program in PROGRAMS if not shutil.which(program)]


def install() -> None:
    """Install the packages with apt-get, unless they are there. Raises a `UserError` if that cannot be done."""
    if not missing_programs():
        return
    command = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    if os.geteuid() != 0:
        raise UserError(f"Ceph's gateway is not installed, which takes root: {command}")
    if not shutil.which("apt-get"):
        raise UserError(f"Ceph's gateway is not installed, and there is no apt-get to install {', '.join(PACKAGES)}")
    print(
        f"Ceph's gateway is not on this machine: installing {', '.join(PACKAGES)} from Debian, and some fifty packages "
        "that they need",
        file=sys.stderr,
    )
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = None
    for step in (command, "apt-get update", command):  # the lists may be missing or out of date
        print(f"running {step}", file=sys.stderr)
        done = subprocess.run([*step.split(), "-y"], env=environment, stdout=sys.stderr, check=False)
        if not missing_programs():
            return
    raise UserError(f"{command} failed with exit code {done.returncode if done else '?'}; see above")


class S3Server:
    """A server that is running."""

    def __init__(self, directory: Path, access_key: str, secret_key: str, gibibytes: int) -> None:
        self.directory = directory
        self.access_key = access_key
        self.secret_key = secret_key
        self.port = 0
        """Of the endpoint."""
        self._gibibytes = gibibytes
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoint(self) -> str:
        """URL of the endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """The variables by which this package, Ray, TensorBoard and other clients find the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Newer clients send trailing checksums by default, which this server refuses.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "S3_ENDPOINT": self.endpoint,
        }

    def add_user(self, name: str, access_key: str, secret_key: str) -> str:
        """Add a user who owns nothing yet; returns how a bucket policy names this user (an ARN)."""
        keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
        self._run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        return f"arn:aws:iam:::user/{name}"

    def start(self) -> None:
        """Start the daemons; returns when the endpoint answers."""
        monitor, self.port = free_ports(2)
        fsid = str(uuid.uuid4())
        for folder in ("mon", "osd", "rgw"):
            (self.directory / folder).mkdir(parents=True)
        self._config.write_text(self._configuration(fsid, monitor))
        monmap = str(self.directory / "monmap")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{monitor}]", monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a")
        store = str(uuid.uuid4())
        self._run("ceph", "osd", "new", store, "0")  # waits until the monitor answers
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
        self._spawn("ceph-osd", "-i", "0")
        self.add_user("owner", self.access_key, self.secret_key)  # waits until the store is up
        self._spawn("radosgw", "-n", "client.rgw")
        self._wait_until(self._answers, "the gateway's start")

    def stop(self) -> None:
        """End the daemons at once: nothing of theirs is kept."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()
        self._daemons.clear()

    @property
    def pids(self) -> dict[str, int]:
        """Of the daemons, by the names of their programs."""
        return {program: daemon.pid for program, daemon in self._daemons.items()}

    @property
    def _config(self) -> Path:
        return self.directory / "ceph.conf"

    def _run(self, program: str, *arguments: str) -> None:
        log = self.directory / f"{program}.out"
        with log.open("wb") as output:
            command = [program, "-c", str(self._config), *arguments]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process:
                try:
                    self._wait_until(lambda: process.poll() is not None, program)
                finally:
                    process.kill()
        if process.returncode:
            raise _StartError(f"{program} failed: {_last_line(log)}")

    def _spawn(self, program: str, *arguments: str) -> None:
        # In a session of its own, so that Ctrl-C in a terminal reaches this process alone.
        with (self.directory / f"{program}.out").open("wb") as output:
            self._daemons[program] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, "-c", str(self._config), *arguments, "-f"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _wait_until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + START_TIMEOUT
        while not done():
            for program, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise _StartError(f"{program} ended: {_last_line(self.directory / f'{program}.out')}")
            if time.monotonic() > end:
                raise _StartError(f"{what} has not come to its end within {START_TIMEOUT:.0f} s")
            time.sleep(0.02)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return b"ListAllMyBucketsResult" in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _configuration(self, fsid: str, monitor: int) -> str:
        """Everything below one directory, no redundancy, and no keys between the daemons."""
        state = self.directory
        return f"""[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{monitor}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_msgr1 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
keyring = /dev/null
run_dir = {state}
admin_socket =
crash_dir = {state}
log_file = {state}/$name.log
mon_cluster_log_file = {state}/cluster.log
log_to_stderr = false
err_to_stderr = true
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
[mon]
mon_data = {state}/mon
mon_data_avail_warn = 2
mon_data_avail_crit = 1
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
[osd]
osd_data = {state}/osd
osd_objectstore = memstore
memstore_device_bytes = {self._gibibytes * GIB}
osd_class_load_list = *
osd_class_default_list = *
osd_max_object_name_len = 2048
[client]
rgw_data = {state}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{self.port} tcp_nodelay=1
rgw_dns_name = {DNS_NAME}
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
"""


@contextlib.contextmanager
def running(access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY, gibibytes: int = 4) -> Iterator[S3Server]:
    """A server for the duration of the block, which holds at most `gibibytes` of objects, in memory.

    Raises a `UserError` if the packages are missing or the server does not start.
    """
    if missing := missing_programs():
        raise UserError(
            f"no S3 server can be started: {', '.join(missing)} missing; on Debian: apt-get install "
            f"--no-install-recommends {' '.join(PACKAGES)}"
        )
    with tempfile.TemporaryDirectory(prefix="resnet-dist-s3-", ignore_cleanup_errors=True) as parent:
        server = _started(Path(parent), access_key, secret_key, gibibytes)
        try:
            yield server
        finally:
            server.stop()


def _started(parent: Path, access_key: str, secret_key: str, gibibytes: int) -> S3Server:
    failure = ""
    for attempt in range(START_ATTEMPTS):  # another server may take a port between its choice and its use
        server = S3Server(parent / str(attempt), access_key, secret_key, gibibytes)
        try:
            server.start()
        except _StartError as error:
            server.stop()
            failure = str(error)
        except BaseException:
            server.stop()
            raise
        else:
            return server
    raise UserError(f"the S3 server does not start: {failure}")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address on which nothing listens now, all different."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise UserError(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server in the foreground, or install the packages. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.s3_server",
        description="Run a throw-away S3 server (Ceph's gateway) on this machine until Ctrl-C; its objects live in "
        "memory and are gone at the end.",
    )
    parser.add_argument("--install", action="store_true", help="install the packages if they are missing, and end")
    parser.add_argument("--bucket", default="results", help="bucket to create (default: results)")
    parser.add_argument("--gibibytes", type=int, default=4, metavar="N", help="most that it holds (default: 4)")
    args = parser.parse_args(arguments)
    try:
        if args.install:
            install()
        else:
            _serve(args.bucket, args.gibibytes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; its objects are gone", file=sys.stderr)
    return 0


def _serve(bucket: str, gibibytes: int) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    with running(gibibytes=gibibytes) as server:
        import boto3

        os.environ.update(server.environment())
        boto3.client("s3").create_bucket(Bucket=bucket)
        _print_how_to_use(server.environment(), bucket)
        signal.pause()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_how_to_use(environment: Mapping[str, str], bucket: str) -> None:
    for name, value in environment.items():
        print(f"export {name}={value}")
    print(
        f"# In another terminal: the lines above, then e.g. make demo STORAGE=s3://{bucket}/demo\n"
        "# Ctrl-C ends the server, and what it holds is gone.",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
