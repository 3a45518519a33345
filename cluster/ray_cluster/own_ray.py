"""A Ray of this process's own on this machine: what may keep it from starting, and whether its workers work."""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import processes
from resnet_dist.errors import UserError

TIMED_OUT = "timed out during startup"
"""What Ray says where its own processes were not up within half a minute."""
WORKER_SECONDS = 180.0
"""How long the first worker process may take until it answers."""
LONGEST_DIRECTORY = 40
"""Bytes of a path below which Ray makes its sockets, whose names the system limits to 107."""


def start() -> None:
    """Start Ray on this machine; up to twice again where it was not up within Ray's 30 s, as on a busy machine.

    Raises a `UserError` if its directory cannot be used or its workers do not start.
    """
    import ray

    require_directory()
    # Ray starts its workers by a line for a shell in which it leaves the path of Python unquoted.
    python = shlex.quote(sys.executable)
    environment = None if python == sys.executable else {"py_executable": python}
    for is_last in (False, False, True):
        before = set(processes.below(os.getpid()))
        try:
            with _no_notice_of_the_end():
                # Not one that happens to run here: whoever wants that one names it, and it stays as it is.
                ray.init(
                    "local",
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    runtime_env=environment,
                    # Else it waits here for workers that it starts beforehand, for ever where none can start.
                    _system_config={"prestart_worker_first_driver": False},
                )
            break
        except BaseException as error:
            ray.shutdown()
            # Ray does not know of a node that has not come up, and what is left of it would slow down the next try.
            processes.end(set(processes.below(os.getpid())) - before)
            if is_last or TIMED_OUT not in str(error):
                raise
    require_worker()


@contextlib.contextmanager
def _no_notice_of_the_end() -> Iterator[None]:
    """Ray Train starts a process with each worker group that hears which nodes are to be taken away: not this one."""
    variable = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = "0"  # for the processes that Ray starts; a cluster that is used later has its own
    try:
        yield
    finally:
        del os.environ[variable]


def temporary_directory() -> Path:
    """The directory in which Ray makes its own."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if os.environ.get(name) == "":  # to Ray it would be the working directory
            del os.environ[name]
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def require_directory(directory: Path | None = None) -> None:
    """Raise a `UserError` if the directory in which Ray keeps its files cannot be written, or its path is too long."""
    directory = directory or temporary_directory() / "ray"
    remedy = "set RAY_TMPDIR to a short path of a directory of yours, such as /tmp/$USER"
    if len(os.fsencode(directory)) > LONGEST_DIRECTORY:
        raise UserError(f"Ray keeps its files in {directory}, whose path is too long for its sockets; {remedy}")
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"Ray keeps its files in {directory}, and {existing} is no directory; {remedy}")
    if not os.access(existing, os.W_OK | os.X_OK):
        try:
            owner = existing.owner()
        except (KeyError, OSError):
            owner = str(existing.stat().st_uid)
        raise UserError(
            f"Ray keeps its files in {directory}, and {existing} is of user {owner} and cannot be written; {remedy}"
        )


def require_worker(seconds: float = WORKER_SECONDS) -> None:
    """Raise a `UserError` unless Ray starts a worker process; without this, Ray would try for ever, in silence."""
    import ray

    asked = ray.remote(num_cpus=0)(_answer).remote()
    answered, _ = ray.wait([asked], timeout=seconds)
    if not answered:
        node: Any = ray._private.worker.global_worker.node
        logs = Path(node.get_logs_dir_path())
        raise UserError(
            f"Ray runs on this machine, but none of its workers has started in {seconds:.0f} s: {_last_words(logs)}; "
            f"see {logs}"
        )
    ray.get(answered[0])


def _answer() -> bool:
    return True


def _last_words(logs: Path) -> str:
    """What the newest worker or the raylet has said last."""
    said: Any = sorted((*logs.glob("worker-*.err"), *logs.glob("raylet.err")), key=lambda path: path.stat().st_mtime)
    for path in reversed(said):
        if lines := path.read_text(errors="replace").strip().splitlines():
            return str(lines[-1][:200])
    return "they say nothing"
