"""What every kind of storage shares: which keys are allowed, refusals, and a trial of each operation."""

import contextlib
import secrets
from typing import Protocol

from resnet_dist.errors import StorageError
from resnet_dist.storage.interface import RangedStorage

MAX_KEY_BYTES = 1024
"""What S3 allows, in UTF-8, prefix included."""


CREATES_TWICE = (
    "the store does not honour 'write only if absent' (If-None-Match), without which two launches could claim one "
    "trial; use a store that does (Ceph's gateway: a bucket that keeps no versions), or a directory"
)


class RefusedError(StorageError):
    """The store answers that it will not do this; other operations may work."""


class BrowsableStorage(RangedStorage, Protocol):
    """Storage that this package opens: what a run needs, and what someone who looks around in it needs."""

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names one level below `prefix` (empty, or ending in `/`) that have objects below them, sorted."""


def validate_key(key: str) -> None:
    """Raise a `StorageError` unless `key` names an object in a directory as well as in S3."""
    reason = None
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        reason = "it is not valid Unicode"
    else:
        if not key or any(part in ("", ".", "..") for part in key.split("/")):
            reason = "it must be names separated by single slashes, without '.' and '..'"
        elif any(ord(character) < 32 or ord(character) == 127 for character in key):
            reason = "it must not contain control characters"
        elif len(encoded) > MAX_KEY_BYTES:
            reason = f"it has {len(encoded)} bytes in UTF-8 and may have {MAX_KEY_BYTES}"
    if reason:
        shown = key if len(key) <= 120 else key[:100] + "…"
        raise StorageError(f"storage key {shown!r} is not allowed: {reason}")


def validate_prefix(prefix: str) -> None:
    """Raise a `StorageError` unless some valid key can start with `prefix`."""
    if prefix:
        validate_key(prefix.removesuffix("/"))


def probe(storage: BrowsableStorage) -> None:
    """Use every operation once on a small object of a name of its own; raises what fails as `StorageError`."""
    key = f".check-{secrets.token_hex(8)}"
    content = b"resnet-dist checks that it can write here"
    created = storage.create(key, content)
    try:
        if not created or storage.create(key, b""):
            raise StorageError(f"{storage.uri}: {CREATES_TWICE}")
        storage.put(key, content)
        if storage.get(key) != content or [item.key for item in storage.list(key)] != [key]:
            raise StorageError(
                f"{storage.uri}: an object that was just written is not found again, or differs; "
                "use a store with read-after-write consistency"
            )
    except StorageError:
        with contextlib.suppress(StorageError):  # the first failure is the one to report
            storage.delete(key)
        raise
    storage.delete(key)
