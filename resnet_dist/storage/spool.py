"""Writes of a trial that have not reached storage yet, on local disk: a file each, in order.

They are made before storage is, so that a process that dies leaves what it had to say, and whoever comes next on this
host says it. What stands here is always a sound beginning of what was to be written: a file is there whole or not at
all, and where one is damaged (a power cut) it and all after it are dropped.

Writes may be brought together while they wait, as long as storage holds, after each of them, what a run can go on from:
an object's new content takes the place of the old one in the order (it appears earlier than it might), deletions move
to the end (they happen later than they might), and what is deleted before it went up is never sent. So however long
storage is away, no more waits here than a trial keeps.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from resnet_dist.cache_directory import cache_directory
from resnet_dist.errors import StorageError
from resnet_dist.paths import absolute
from resnet_dist.storage.interface import Storage
from resnet_dist.storage.spool_files import PARTIAL, Kind, load_write, save, save_write

SPOOL_VARIABLE = "RESNET_DIST_SPOOL"
_URI, _LOCK, _FENCE = "storage.json", "lock", "guard"


class SpoolInUseError(StorageError):
    """Another process of this host writes this trial."""


def spool_directory() -> Path:
    """`RESNET_DIST_SPOOL`, or else `spool` in the cache directory."""
    chosen = os.environ.get(SPOOL_VARIABLE)
    return absolute(chosen, SPOOL_VARIABLE) if chosen else cache_directory() / "spool"


@dataclass(frozen=True)
class Write:
    """One waiting write."""

    number: int
    """Order."""
    kind: Kind
    key: str
    size: int
    """Bytes; 0 for a deletion."""
    digest: str
    """SHA-256 of the content."""


class Spool:
    """The waiting writes of one trial, of which one process at a time is the owner.

    Methods are not safe to be called by several threads at once.
    """

    def __init__(self, storage: Storage, experiment: str, trial_id: str, patience: float) -> None:
        """Take the spool over from its last owner, for whose end `patience` seconds are waited.

        Raises `SpoolInUseError` if it is not over by then, and a `StorageError` if the directory cannot be written.
        """
        home = spool_directory() / hashlib.sha256(storage.place.encode()).hexdigest()[:16]
        self.directory = home / experiment / trial_id
        self.begun: Write | None = None
        """The write that is under way: it can be brought together with no other."""
        # Without flock it is refused: a lock of another kind would outlive a process that is killed.
        self._lock = FileLock(self.directory / _LOCK, patience, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
            if not (home / _URI).exists():
                save(home / _URI, json.dumps({"uri": storage.uri, "place": storage.place}).encode())
            self.writes: list[Write] = list(self._load())
        except Timeout:
            raise SpoolInUseError(
                f"trial {trial_id} is being written by another process of this host; wait for its end, or end it"
            ) from None
        except OSError as error:
            self._lock.release()  # else no later attempt of this process could have it
            raise StorageError(
                f"the spool directory {self.directory} cannot be written ({error.strerror}); "
                f"set {SPOOL_VARIABLE} to one that can"
            ) from error

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(write.size for write in self.writes)

    def expected(self) -> set[str]:
        """Digests (`digest_of`) that the object may have which says who writes the trial, if it is still us."""
        try:
            return set((self.directory / _FENCE).read_text().split("\n"))
        except FileNotFoundError:
            return set()

    def expect(self, digests: set[str]) -> None:
        """Keep what `expected` returns, for this process and the next. Raises a `StorageError` if the disk is full."""
        try:
            save(self.directory / _FENCE, "\n".join(sorted(digests)).encode())
        except OSError as error:
            raise StorageError(
                f"the spool directory {self.directory} cannot be written ({error.strerror}); free some of its disk"
            ) from error

    def last(self, key: str) -> Write | None:
        """The newest waiting write of an object."""
        return next((write for write in reversed(self.writes) if write.key == key), None)

    def data(self, write: Write) -> bytes:
        """A write's content. Raises a `StorageError` if it is no longer what was written."""
        try:
            return load_write(self._path(write.number))[1]
        except OSError as error:
            raise StorageError(f"cannot read {self._path(write.number)}: {error.strerror}") from error
        except ValueError as error:
            raise StorageError(f"{error}; delete {self.directory} and run again") from error

    def append(self, kind: Kind, key: str, data: bytes = b"") -> None:
        """Add a write. Raises an `OSError` if the disk does not take it."""
        last = self.last(key)
        waiting = last if last is not self.begun else None
        if waiting is None or waiting.kind == "delete":
            if waiting is None or kind != "delete":
                self.writes.append(self._write(self._next(), kind, key, data))
        elif kind == "delete":
            self._postpone_deletions()
            self.writes.append(self._write(self._next(), kind, key, b""))
            self.remove(waiting)
        else:
            kind = "grow" if kind == waiting.kind == "grow" else "put"
            self.writes[self.writes.index(waiting)] = self._write(waiting.number, kind, key, data)

    def remove(self, write: Write) -> None:
        """Forget a write, which has been done or is not needed."""
        self._path(write.number).unlink(missing_ok=True)
        self.writes.remove(write)

    def clear(self) -> None:
        """Forget all of them, the last first, so that what remains is always a beginning."""
        for write in reversed(self.writes.copy()):
            self.remove(write)

    def close(self) -> None:
        """Give the spool up: nothing is left of it if nothing waits, and else all of it is on disk."""
        if self.writes:
            for path in (self.directory, *self.directory.iterdir()):
                _sync(path)
        else:
            for path in sorted(self.directory.iterdir(), key=lambda path: path.name == _LOCK):
                path.unlink()
            for directory in (self.directory, self.directory.parent):
                try:
                    directory.rmdir()
                except OSError:
                    break  # others' spools are in it
        self._lock.release()

    def _postpone_deletions(self) -> None:
        """Move deletions to the end: something before them is not going to be written that was to be there first."""
        for write in self.writes.copy():
            if write.kind == "delete" and write is not self.begun and self.last(write.key) is write:
                self.writes.append(self._write(self._next(), "delete", write.key, b""))
                self.remove(write)

    def _next(self) -> int:
        return self.writes[-1].number + 1 if self.writes else 1

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:012d}"

    def _write(self, number: int, kind: Kind, key: str, data: bytes) -> Write:
        digest = save_write(self._path(number), {"kind": kind, "key": key}, data)
        return Write(number, kind, key, len(data), digest)

    def _load(self) -> Iterator[Write]:
        for partial in self.directory.glob("*" + PARTIAL):
            partial.unlink()
        paths = sorted(path for path in self.directory.iterdir() if path.name.isdecimal())
        for position, path in enumerate(paths):
            try:
                said, data = load_write(path)
                write = Write(int(path.name), said["kind"], said["key"], len(data), said["sha256"])
            except (ValueError, KeyError):
                for lost in reversed(paths[position:]):
                    lost.unlink()
                return
            yield write


def spooled_trials(place: str | None = None) -> Iterator[tuple[str, str, str]]:
    """URI of the storage, experiment and id of each trial of which writes wait, or may, on this host."""
    root = spool_directory()
    for home in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            said = json.loads((home / _URI).read_bytes())
            uri, where = str(said["uri"]), str(said["place"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if place in (None, where):
            for trial in sorted(home.glob("*/*/")):
                yield uri, trial.parent.name, trial.name


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
