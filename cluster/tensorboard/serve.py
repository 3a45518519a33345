"""TensorBoard for what is in storage, while it grows: `resnet-dist tensorboard STORAGE`.

STORAGE is the storage of one experiment, or one level above it, where all experiments are shown together. A directory
is linked to, S3 is copied (`mirror.py`); either way TensorBoard sees a local directory and can use its fast loader,
which reads neither S3 nor, in that case, a list of directories.
"""

import contextlib
import errno
import http.client
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cluster.signals import interrupted_by_sigterm, uninterrupted
from cluster.storage.keys import BrowsableStorage
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.tensorboard.event_views import Copies, Links, View, direct_source, follow, say
from resnet_dist.errors import UserError

DEFAULT_PORT = 6006
START_SECONDS = 60.0
"""How long TensorBoard may take until it answers."""
POINTS_PER_CURVE = 10_000
"""TensorBoard shows a random choice of 1,000 points where it is not told otherwise."""
OPEN_FILES = 65_536
"""TensorBoard's fast loader keeps each event file open and crashes when it may not; the usual limit is 1,024."""


def serve(
    storage_uri: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    reload_seconds: int = 10,
    direct: bool = False,
) -> int:
    """Serve TensorBoard until Ctrl-C or SIGTERM; returns the exit code 0.

    `port` None means 6006, or the next free one; 0 means any free one. New points of a directory appear within about
    1.5 times `reload_seconds`; S3 is asked `60 / reload_seconds` times a minute, so that large ones are looked at less
    often. With `direct`, TensorBoard itself reads S3. Raises a `UserError` if the storage cannot be read, the port is
    taken or TensorBoard does not start.
    """
    storage = open_storage(storage_uri)
    if direct and isinstance(storage, LocalStorage):
        raise UserError(f"--direct: {storage.uri} is a directory, which is always read directly; leave --direct out")
    if isinstance(storage, LocalStorage) and not storage.root.is_dir():
        raise UserError(f"there is no directory {storage.uri}; give the storage in which a run or grid writes")
    with (
        interrupted_by_sigterm(),
        tempfile.TemporaryDirectory(prefix="resnet-dist-tensorboard-", ignore_cleanup_errors=True) as scratch,
    ):
        events, log = Path(scratch, "events"), Path(scratch, "tensorboard.log")
        events.mkdir()
        try:
            return _serve(storage, events, log, host, port, reload_seconds, direct)
        except KeyboardInterrupt:
            return 0


def _serve(
    storage: BrowsableStorage,
    events: Path,
    log: Path,
    host: str,
    port: int | None,
    reload_seconds: int,
    direct: bool,
) -> int:
    view: View
    view = Links(storage, events) if isinstance(storage, LocalStorage) else Copies(storage, events)
    experiments = view.experiments()
    if not experiments:
        say(f"No event files in {storage.uri} yet; they are shown here as soon as they are written.")
    chosen = _choose_port(host, port)
    if port is None and chosen != DEFAULT_PORT:
        say(f"Port {DEFAULT_PORT} is taken; using {chosen}.")
    if host in ("0.0.0.0", "::"):
        say("Anyone who can reach this machine can see these results: TensorBoard asks for no password.")
    _raise_file_limit()
    stop = threading.Event()
    refresher = threading.Thread(target=follow, args=(view, reload_seconds, stop), daemon=True)
    if direct:
        source, variables = direct_source(storage, experiments)
    else:
        # Twice as often as the copies are renewed, so that it sees that a run is missing which a mirror copies anew.
        source, variables = ["--logdir", str(events), "--load_fast", "auto"], {}
        source += ["--reload_interval", str(max(1, reload_seconds // 2))]
    with log.open("wb") as output, _tensorboard(source, variables, host, chosen, output) as process:
        if not direct:
            refresher.start()
        try:
            _wait_until_it_answers(process, host, chosen, log)
            say(f"TensorBoard shows {storage.uri} at {_url(host, chosen)} (Ctrl-C ends it)")
            process.wait()
            raise UserError(f"TensorBoard ended by itself: {_last_line(log)}")
        finally:
            stop.set()


@contextlib.contextmanager
def _tensorboard(
    source: list[str], variables: dict[str, str], host: str, port: int, output: BinaryIO
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tensorboard.main", *source, "--host", host, "--port", str(port)]
    command += ["--samples_per_plugin", f"scalars={POINTS_PER_CURVE}", "--window_title", "resnet-dist"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=os.environ | variables
    )
    try:
        yield process
    finally:
        with uninterrupted():  # a second Ctrl-C must not leave it running
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    while time.monotonic() < end:
        if process.poll() is not None:
            raise UserError(f"TensorBoard does not start: {_last_line(log)}")
        connection = http.client.HTTPConnection(address, port, timeout=5)  # asks no proxy
        try:
            connection.request("GET", "/data/environment")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise UserError(f"TensorBoard does not answer within {START_SECONDS:.0f} s: {_last_line(log)}")


def _choose_port(host: str, port: int | None) -> int:
    """The port asked for; any free one for 0; 6006 or the next free one for None."""
    if port is not None and not 0 <= port <= 65_535:
        raise UserError(f"--port {port}: it must be from 0 to 65535")
    candidates = range(DEFAULT_PORT, DEFAULT_PORT + 100) if port is None else (port,)
    for candidate in candidates:
        if (free := _free_port(host, candidate)) is not None:
            return free
    if port is None:
        raise UserError(f"ports {DEFAULT_PORT} to {DEFAULT_PORT + 99} are all taken; name a free one with --port")
    raise UserError(f"port {port} is taken; name another one with --port, or leave it out to have a free one chosen")


def _free_port(host: str, port: int) -> int | None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except socket.gaierror as error:
        raise UserError(f"--host {host}: {error.strerror}; give an address of this machine") from None
    except PermissionError:
        raise UserError(f"--port {port}: this user may not use it; name one above 1023") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise UserError(f"--host {host}: {error.strerror}; give an address of this machine") from None


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))  # inherited by TensorBoard


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "it says nothing"
