"""What a storage can do: each operation tried on small objects, its speed, and what follows from what is missing."""

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from cluster.storage.check_outcome import ROUNDS, Finding, median_seconds
from cluster.storage.keys import CREATES_TWICE, BrowsableStorage, RefusedError
from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError

LARGE_BYTES = 8 * 2**20
"""Size of the object that is written and read to measure throughput."""
RACERS = 4


CONSEQUENCES = {
    "write": "no run can be started",
    "read": "no run can go on after an interruption, and no report can be made",
    "list": "the state of a grid cannot be seen",
    "delete": "old checkpoints stay, and a run takes many times its space",
    "parts": "weights and checkpoints of 64 MiB and more cannot be stored",
}
NEEDS: dict[str, tuple[str, ...]] = {"write": (), "read": (), "list": (), "throughput": ("write", "read")}
"""Steps that a step makes no sense without; all others need `write`."""


@dataclass(frozen=True)
class StorageCheck:
    """Everything that was found out about a storage."""

    uri: str
    access: str
    """How it is reached: endpoint, region, addressing, where the credentials come from. No credentials."""
    findings: Mapping[str, Finding]
    """By the name of what was tried, in the order of trying."""
    not_tried: tuple[str, ...]
    """What was not tried because what came before failed."""

    @property
    def failed(self) -> tuple[str, ...]:
        """What runs need and the storage lacks."""
        return tuple(name for name, finding in self.findings.items() if finding.state == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "storage": self.uri,
            "usable": not self.failed,
            "access": self.access,
            "findings": [{"name": name, **asdict(finding)} for name, finding in self.findings.items()],
            "not_tried": list(self.not_tried),
        }


def check_storage(uri: str) -> StorageCheck:
    """Try every operation on a storage, and measure. What this writes is deleted again.

    It ends at the first failure that other operations would share: a server that cannot be reached, a bucket that
    does not exist, a key that is not known. A server that does not answer is waited for 15 seconds at most.
    """
    folder = f".check-{secrets.token_hex(8)}/"
    storage, access, particular = _open(uri)
    steps: dict[str, Callable[[], Finding]] = {
        "write": functools.partial(_write, storage, folder),
        "read": functools.partial(_read, storage, folder),
        "list": functools.partial(_list, storage, folder),
        "create": functools.partial(_create, storage, folder),
        "throughput": functools.partial(_throughput, storage, folder),
        **{name: functools.partial(step, folder) for name, step in particular.items()},
        "delete": functools.partial(_delete, storage, folder),
    }
    found: dict[str, Finding] = {}
    try:
        for name, step in steps.items():
            if all(found[needed].state == "ok" for needed in NEEDS.get(name, ("write",))):
                try:
                    found[name] = step()
                except StorageError as error:
                    found[name] = Finding(_missing(name, error), state="failed")
                    if not isinstance(error, RefusedError):
                        break
    finally:
        if "write" in found and "delete" not in found:
            with contextlib.suppress(StorageError):
                _delete(storage, folder)
    return StorageCheck(storage.uri, access, found, tuple(name for name in steps if name not in found))


def _open(uri: str) -> tuple[BrowsableStorage, str, dict[str, Callable[[str], Finding]]]:
    """The storage, how it is reached, and further steps for its kind."""
    if not uri.startswith("s3://"):
        return open_storage(uri), "a directory", {}
    from cluster.storage.s3 import CHECK_TIMEOUT, S3Storage, timeout_from_environment
    from cluster.storage.s3_check import access_to, steps_of

    storage = S3Storage(uri, min(timeout_from_environment(), CHECK_TIMEOUT))
    return storage, access_to(storage), steps_of(storage)


def _missing(name: str, error: StorageError) -> str:
    consequence = CONSEQUENCES.get(name)
    return f"{error}. Without it {consequence}" if consequence else str(error)


def _small(folder: str) -> dict[str, bytes]:
    return {f"{folder}{number}": b"a small object of a check, number %d" % number for number in range(ROUNDS)}


def _write(storage: BrowsableStorage, folder: str) -> Finding:
    return Finding(seconds=median_seconds(lambda item: storage.put(*item), _small(folder).items()))


def _read(storage: BrowsableStorage, folder: str) -> Finding:
    """A missing object is read too, which takes a permission of its own in S3."""
    read: dict[str, bytes | None] = {}
    seconds = median_seconds(lambda key: read.update({key: storage.get(key)}), _small(folder))
    if storage.get(folder + "none") is not None or read not in (_small(folder), dict.fromkeys(read)):
        raise StorageError(f"{storage.uri}: what is read is not what was written; use a store that is consistent")
    return Finding(seconds=seconds)


def _list(storage: BrowsableStorage, folder: str) -> Finding:
    found: set[str] = set()
    seconds = median_seconds(lambda _: found.update(item.key for item in storage.list(folder)), range(ROUNDS))
    if found and found != set(_small(folder)):
        raise StorageError(f"{storage.uri}: a listing lacks what was just written; use a store that is consistent")
    return Finding(seconds=seconds)


def _create(storage: BrowsableStorage, folder: str) -> Finding:
    key = folder + "contended"
    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(lambda number: storage.create(key, b"%d" % number), range(RACERS)))
    if won.count(True) != 1:
        raise RefusedError(
            f"{storage.uri}: {won.count(True)} of {RACERS} racing writers created one object: {CREATES_TWICE}"
        )
    return Finding(f"one of {RACERS} racing writers won")


def _throughput(storage: BrowsableStorage, folder: str) -> Finding:
    key, data = folder + "large", secrets.token_bytes(LARGE_BYTES)
    started = time.perf_counter()
    storage.put(key, data)
    written = time.perf_counter()
    if storage.get(key) != data:
        raise StorageError(f"{storage.uri}: an object of {LARGE_BYTES} bytes is not read as it was written")
    read = time.perf_counter()
    megabytes = LARGE_BYTES / 1e6
    return Finding(f"write {megabytes / (written - started):.1f} MB/s, read {megabytes / (read - written):.1f} MB/s")


def _delete(storage: BrowsableStorage, folder: str) -> Finding:
    for name in ("contended", "large", "special"):
        storage.delete(folder + name)
    return Finding(seconds=median_seconds(storage.delete, _small(folder)))
