"""A directory that takes part as remote storage and fails when told to."""

import threading
from collections.abc import Callable
from pathlib import Path

from cluster.storage.local import LocalStorage
from resnet_dist.errors import StorageError


class UnreliableStorage(LocalStorage):
    """Fails while `broken`, counting tries; hangs while `gate` is closed; keeps the order of what was done."""

    def __init__(self, root: Path, remote: bool = True) -> None:
        super().__init__(root)
        self.is_remote = remote
        self.broken = False
        self.tries = 0
        self.done: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0
        self.before: Callable[[str], None] = lambda change: None
        """Called before each write is made."""

    def put(self, key: str, data: bytes) -> None:
        self._do("put", key, lambda: LocalStorage.put(self, key, data))

    def grow(self, key: str, data: bytes) -> None:
        self._do("grow", key, lambda: LocalStorage.grow(self, key, data))

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: LocalStorage.delete(self, key))

    def get(self, key: str) -> bytes | None:
        if self.broken:
            self.tries += 1
            raise StorageError(f"cannot read {key}: out of order; mend it")
        return super().get(key)

    def _do(self, kind: str, key: str, write: Callable[[], None]) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.before(f"{kind} {key}")
        self.gate.wait(30)
        self.under_way -= 1
        if self.broken:
            self.tries += 1
            raise StorageError(f"cannot write {key}: out of order; mend it")
        write()
        self.done.append(f"{kind} {key}")
