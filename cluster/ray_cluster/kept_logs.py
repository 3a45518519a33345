"""Puts the logs of this node's Ray into the storage, since on Kubernetes they go with the pod that wrote them.

    python -m cluster.ray_cluster.kept_logs /tmp/ray s3://bucket/prefix

It runs beside Ray until it is told to end: every five minutes what has changed, and everything once more at its end,
below `<storage>/.logs/<pod>/<session>/`. What is written there is text of Ray's and of the run's; nothing reads it but
people.
"""

import logging
import os
import socket
import sys
import time
from pathlib import Path

from cluster.signals import interrupted_by_sigterm
from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError, UserError
from resnet_dist.logs import configure
from resnet_dist.storage.interface import Storage

log = logging.getLogger("cluster.ray_cluster.kept_logs")  # by this name also where it is the program

PERIOD = 300.0
"""Seconds between two looks: what is lost if the node itself is."""
MOST = 4 * 2**20
"""Bytes of a file that are kept, its last ones."""
SUFFIXES = (".log", ".out", ".err")

ROOT = ".logs/"
"""Before the keys. Experiments' names do not begin with a dot."""


def keep(ray_directory: Path, storage: Storage, pod: str, kept: dict[Path, tuple[int, int]]) -> int:
    """Write the log files that have changed since `kept`, which is brought up to date; how many those were.

    Raises a `StorageError` at the first one that cannot be written.
    """
    written = 0
    for file in sorted(ray_directory.glob("session_*/logs/**/*")):
        session = file.relative_to(ray_directory).parts[0]
        if file.suffix not in SUFFIXES or (ray_directory / session).is_symlink():  # session_latest is one of the others
            continue
        try:
            status = file.stat()
            state = status.st_size, status.st_mtime_ns
            if not status.st_size or kept.get(file) == state:
                continue
            with file.open("rb") as opened:
                opened.seek(max(0, status.st_size - MOST))
                text = opened.read(MOST)
        except OSError:  # rotated away, or no file
            continue
        name = file.relative_to(ray_directory / session / "logs").as_posix()
        storage.put(f"{ROOT}{pod}/{session}/{name}", text)
        kept[file] = state
        written += 1
    return written


def main(ray_directory: Path, storage: Storage, pod: str) -> None:
    """Keep the logs until SIGTERM or Ctrl-C, and then once more."""
    kept: dict[Path, tuple[int, int]] = {}

    def look() -> None:
        try:
            if written := keep(ray_directory, storage, pod, kept):
                log.info("kept %d log files of this node in %s", written, f"{storage.uri}/{ROOT}{pod}/")
        except StorageError as error:
            log.warning("the logs of this node are not in storage: %s", error)

    try:
        with interrupted_by_sigterm():
            while True:
                look()
                time.sleep(PERIOD)
    except KeyboardInterrupt:
        look()


if __name__ == "__main__":
    configure()
    try:
        main(Path(sys.argv[1]), open_storage(sys.argv[2]), os.environ.get("HOSTNAME") or socket.gethostname())
    except UserError as error:
        sys.exit(f"error: {error}")
