"""A local copy of TensorBoard's event files in storage, kept up to date in the way that TensorBoard can follow.

TensorBoard's fast loader (seen with tensorboard 2.21, its data server 0.7.2) keeps every event file open, reads what is
appended to it, and reads the files of a run in the order of their names. It never sees that a file was replaced,
never takes back a point whose file is gone, and drops the points of later steps when a file with earlier ones
appears afterwards. So a run that only grew (its last file, or by files with later names) is extended in place, and
a run that changed in any other way is taken away for one `sync` and copied anew by the next.
"""

import errno
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from resnet_dist.errors import StorageError
from resnet_dist.storage.interface import Storage

LOGGER = logging.getLogger(__name__)

CONNECTIONS = 8
KEYS_A_PAGE = 1000
"""S3 lists so many keys at a time."""
_TEMPORARY = ".mirror.tmp"  # does not contain "tfevents", by which TensorBoard knows event files


class MirrorReport(NamedTuple):
    """What one `sync` did, in objects."""

    downloaded: int
    """New or grown ones."""
    removed: int
    """Local files of vanished objects, and of runs that the next `sync` copies anew."""
    unchanged: int


class Mirror:
    """Copies what is below `prefix` (ending in `/`) of a storage to `directory`, which must be empty or missing."""

    def __init__(self, storage: Storage, prefix: str, directory: Path) -> None:
        self.storage = storage
        self.prefix = prefix
        self.directory = directory
        self.pages = 1
        """Requests that the newest listing took, or thereabouts."""
        self._versions: dict[str, str] = {}  # of the objects here, by their names below the prefix
        self._impossible: set[str] = set()  # names that the local file system does not take

    def sync(self) -> MirrorReport:
        """Bring the copy up to date. Raises a `StorageError`, after which it can be called again."""
        self.directory.mkdir(parents=True, exist_ok=True)
        listed = {item.key.removeprefix(self.prefix): item.version for item in self.storage.list(self.prefix)}
        self.pages = len(listed) // KEYS_A_PAGE + 1
        for name in self._impossible:
            listed.pop(name, None)
        wanted, present = _by_run(listed), _by_run(self._versions)
        fetch: list[str] = []
        rewritten: set[str] = set()
        removed = 0
        for run in sorted(wanted.keys() | present.keys()):
            if _only_grew(present[run], wanted[run]):
                fetch += [name for name in sorted(wanted[run]) if listed[name] != self._versions.get(name)]
            else:
                removed += self._remove(present[run])
        downloaded = 0
        for name, data in self._downloads(fetch):
            run = name.rpartition("/")[0]
            if run in rewritten or data is None:
                continue  # None: vanished since the listing
            if self._install(name, data):
                self._versions[name] = listed[name]
                downloaded += 1
            elif name in self._versions:
                rewritten.add(run)
                removed += self._remove(_by_run(self._versions)[run])
        return MirrorReport(downloaded, removed, unchanged=len(self._versions) - downloaded)

    def _downloads(self, names: list[str]) -> Iterator[tuple[str, bytes | None]]:
        """Content by name, in the order given (which is that of installation), downloaded side by side."""
        if names:
            with ThreadPool(CONNECTIONS) as pool:  # daemon threads: a hanging server does not keep the process
                yield from zip(names, pool.imap(self._download, names), strict=True)

    def _download(self, name: str) -> bytes | None:
        return self.storage.get(self.prefix + name)

    def _install(self, name: str, data: bytes) -> bool:
        """Write or extend a file. False if it holds something else already, or cannot have this name."""
        path = self.directory / name
        try:
            if name in self._versions:
                with path.open("r+b") as file:
                    here = file.read()
                    if not data.startswith(here):
                        return False
                    file.write(data[len(here) :])
                return True
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(_TEMPORARY)
            temporary.write_bytes(data)
            os.replace(temporary, path)  # noqa: PTH105 - pairs with the writer's
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
                LOGGER.warning("%s%s is left out: %s", self.prefix, name, error.strerror)
                self._impossible.add(name)
                return False
            raise StorageError(
                f"cannot copy event files to {self.directory}: {error.strerror}; free some space, "
                "or set TMPDIR to another directory"
            ) from error
        return True

    def _remove(self, names: Iterable[str]) -> int:
        removed = 0
        for name in names:
            removed += 1
            path = self.directory / name
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.directory or any(parent.iterdir()):
                    break
                parent.rmdir()
            del self._versions[name]
        return removed


def _by_run(versions: dict[str, str]) -> defaultdict[str, dict[str, str]]:
    """Versions by name, for each directory of event files: what TensorBoard calls a run."""
    runs: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, version in versions.items():
        runs[name.rpartition("/")[0]][name] = version
    return runs


def _only_grew(present: dict[str, str], wanted: dict[str, str]) -> bool:
    """Whether all that was there still is, unchanged but for its last file, and new names come after it."""
    if not present:
        return True
    last = max(present)
    return all(wanted.get(name) == present[name] or (name == last and name in wanted) for name in present) and all(
        name in present or name > last for name in wanted
    )
