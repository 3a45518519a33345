"""The address of the Ray cluster that a command is to use, as users give it, and whether Ray answers there."""

import contextlib
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

from cluster.ray_cluster.core_settings import require_core_settings
from cluster.ray_cluster.local import running_cluster
from resnet_dist.errors import UserError, first_line

ANSWER_SECONDS = 10.0
"""How long something at a cluster's address may take to answer like Ray. Ray itself waits for ten minutes."""

WANTS_TOKEN = (
    "wants a token that is not the one at hand; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that "
    "holds this cluster's"
)

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4
"""A client's first words in HTTP/2, in which Ray's processes speak, and the kind of frame that answers them."""


def cluster_address() -> str | None:
    """What RAY_ADDRESS names, as Ray itself takes it: `host:port` or `auto`; None for a Ray of this process's own.

    The address of a job server is that of its cluster if `cluster up` started it here. Called before anything begins,
    and before Ray is imported, it also refuses settings on which that would end the process.
    """
    require_core_settings()
    given = os.environ.get("RAY_ADDRESS", "").strip()
    if given in ("", "local"):
        return None
    started = running_cluster()
    if started and given.partition("#")[0].rstrip("/") in (started.address, started.dashboard, "auto"):
        started.use_token()
        return started.address
    scheme = given.partition("://")[0] if "://" in given else ""
    if scheme in ("http", "https"):
        command = shlex.join(sys.argv[1:])
        raise UserError(
            f"RAY_ADDRESS: {without_user(given)} is the address of a job server, to which this command is given with: "
            f"resnet-dist submit -- {command}; to run it on this machine alone, unset RAY_ADDRESS"
        )
    if scheme == "ray":
        raise UserError(
            "RAY_ADDRESS: ray://… is an address of Ray Client, through which Ray Train and Tune do not work; "
            "give host:port of the cluster (port 6379, as `ray start` says), or submit the command to its job server"
        )
    if scheme:
        raise UserError(
            f"RAY_ADDRESS: {scheme}://… is no address of a Ray cluster; give host:port, as `ray start` says it"
        )
    return given


def require_ray(address: str) -> None:
    """Raise an `OSError` unless something at `host:port` answers like Ray; other kinds of address pass."""
    host, _, port = address.rpartition(":")
    if not (host and "/" not in host and port.isdigit()):
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.sendall(_HELLO)
        try:
            answer = connection.recv(9)
        except TimeoutError:
            answer = b""
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise OSError("what answers there is not Ray")


@contextlib.contextmanager
def unprinted() -> Iterator[Callable[[], str]]:
    """Keep what this process writes to standard error from the terminal during the block; gives what that was.

    Ray's core writes there by itself, again and again, while it tries to connect.
    """
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as said:

        def read() -> str:
            said.seek(0)
            return said.read().decode(errors="replace")

        os.dup2(said.fileno(), 2)
        try:
            yield read
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)


def reason(error: Exception, said: str) -> str:
    """Why there is no connection, in words and with what to do, from an error and from what Ray's core has said."""
    if "InvalidAuthToken" in said or "Unauthenticated" in said:
        return f"the cluster {WANTS_TOKEN}"
    if "Method not found" in said:
        return (
            "what answers there is another of Ray's servers; give the port of `ray start --head`, 6379 if none was "
            "named (10001 is Ray Client's, 8265 the dashboard's)"
        )
    return f"{first_line(error)}; check RAY_ADDRESS and that the cluster runs"


def without_user(url: str) -> str:
    """A URL without the user and the password that may stand in it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it is none
        return url.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
