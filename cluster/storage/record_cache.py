"""Records that no longer change, kept on this machine: a report of a large experiment in S3 reads them once.

A copy is used only for the version (ETag) that a listing has just named, so nothing that has been replaced, deleted
or written anew is ever shown from here. The cache is a help and no more: if it cannot be used, storage is read.
"""

import contextlib
import hashlib
import logging
import sqlite3
import threading
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

from resnet_dist.storage.interface import Storage, StoredObject

LOGGER = logging.getLogger(__name__)

PENDING = 500
"""Records written to the cache's file at a time."""


@runtime_checkable
class VersionedStorage(Protocol):
    """Storage of which each reading costs a request, and tells the version of what was read."""

    uri: str

    def endpoint(self) -> str:
        """URL of the store: a bucket of the same name elsewhere is another one."""

    def get_with_version(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of an object, the latter as a listing has it; None if there is none."""


class RecordCache:
    """Copies of one experiment's records. A context: what was read is written to the cache's file at its end."""

    def __init__(self, storage: Storage, experiment: str, cache: Path) -> None:
        """Copies are kept below the directory `cache` if `storage` is one that tells versions, else nowhere."""
        self.storage = storage
        self._lock = threading.Lock()
        self._pending: list[tuple[str, str, bytes]] = []
        self._database: sqlite3.Connection | None = None
        if isinstance(storage, VersionedStorage):
            place = f"{storage.endpoint()} {storage.uri} {experiment}"
            self._open(cache / "records" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.sqlite")

    def get(self, listed: StoredObject) -> bytes | None:
        """Content of an object that a listing has named; None if it has vanished since. Any thread may call it."""
        if self._database is None:
            return self.storage.get(listed.key)
        if (copy := self._find(listed)) is not None:
            return copy
        assert isinstance(self.storage, VersionedStorage)
        found = self.storage.get_with_version(listed.key)
        if found is None:
            return None
        data, version = found
        with self._lock:
            self._pending.append((listed.key, version, zlib.compress(data, 1)))
            if len(self._pending) >= PENDING:
                self._write()
        return data

    def keep_only(self, keys: Collection[str]) -> None:
        """Forget copies of all other objects."""
        with self._lock, self._giving_up():
            if self._database is not None:
                kept = [key for (key,) in self._database.execute("SELECT key FROM records")]
                gone = [(key,) for key in kept if key not in keys]
                with self._database:
                    self._database.executemany("DELETE FROM records WHERE key = ?", gone)

    def __enter__(self) -> "RecordCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._write()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _open(self, file: Path) -> None:
        with self._giving_up():
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = _opened(file)
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                    raise
                file.unlink()  # damaged, and it would be at each command
                self._database = _opened(file)

    def _find(self, listed: StoredObject) -> bytes | None:
        row = None
        with self._lock, self._giving_up():
            if self._database is not None:
                row = self._database.execute(
                    "SELECT data FROM records WHERE key = ? AND version = ?", (listed.key, listed.version)
                ).fetchone()
        if row is None:
            return None
        with contextlib.suppress(zlib.error):
            data = zlib.decompress(row[0])
            return data if len(data) == listed.size else None
        return None

    def _write(self) -> None:
        """Write what is pending; the lock is held."""
        with self._giving_up():
            if self._database is not None:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", self._pending)
        self._pending.clear()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Go on without the cache if its file cannot be used."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            LOGGER.warning("records are read without the cache on this machine: %s", error)
            if self._database is not None:
                self._database.close()
                self._database = None


def _opened(file: Path) -> sqlite3.Connection:
    # Another process may be writing: that is worth no long wait.
    database = sqlite3.connect(file, timeout=5, check_same_thread=False)
    try:
        database.execute(
            "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, version TEXT NOT NULL, data BLOB NOT NULL)"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database
