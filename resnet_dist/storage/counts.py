"""What a storage has cost so far: requests, bytes, retries, and what waits on disk. One object for whoever watches."""

import threading
from collections import Counter
from typing import NamedTuple


class StorageTotals(NamedTuple):
    """Counts of one process since it opened the storage."""

    requests: dict[str, int]
    """By operation, each try counted: HTTP requests where storage is remote."""
    sent: int
    """Bytes of content sent, tries that failed included."""
    received: int
    """Bytes of content received."""
    retries: int
    """Requests that were made again after a failure that could pass."""
    waiting_writes: int
    """Writes that are on this host's disk and not in storage yet."""
    waiting_bytes: int
    trouble: str
    """Why storage cannot be written at the moment; empty if it can."""


class StorageCounts:
    """Counts that threads add to and read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._sent = self._received = self._retries = 0
        self._waiting = (0, 0)
        self._trouble = ""

    def __reduce__(self) -> tuple[type["StorageCounts"], tuple[()]]:
        return StorageCounts, ()  # another process counts from zero

    def request(self, operation: str, sent: int = 0) -> None:
        """Count a request that is about to be made, and the bytes of its content."""
        with self._lock:
            self._requests[operation] += 1
            self._sent += sent

    def received(self, size: int) -> None:
        """Count the bytes of an answer's content."""
        with self._lock:
            self._received += size

    def retry(self) -> None:
        """Count a request that is made again."""
        with self._lock:
            self._retries += 1

    def waiting(self, writes: int, size: int, trouble: str) -> None:
        """Note what waits now, and why."""
        with self._lock:
            self._waiting, self._trouble = (writes, size), trouble

    def totals(self) -> StorageTotals:
        """The counts at this moment."""
        with self._lock:
            return StorageTotals(
                dict(self._requests), self._sent, self._received, self._retries, *self._waiting, self._trouble
            )
