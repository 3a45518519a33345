"""Objects of which a write went unanswered, so that it may reach storage late, over something newer.

A request that is given up (a timeout, a lost connection, a gateway in between that had no answer) can still be under
way, in a proxy or in the store itself, and nothing keeps it from taking effect after the next one: not all stores that
this has to work with know a condition for overwriting. So whoever writes takes note of the object here, with its newest
content, and looks once no such request can arrive any more. Notes are files beside the trial's spool: they outlive the
process.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from resnet_dist.storage.waiting_files import Kind, load_write, save_write

LOGGER = logging.getLogger(__name__)

_NAME = "doubt-"


@dataclass(frozen=True)
class Doubt:
    """What is known of one object."""

    key: str
    since: float
    """When the last request that went unanswered was given up: seconds since 1970."""
    kind: Kind | None = None
    """The newest write that was answered; None if none was since, or it is not known."""
    digest: str = ""
    """As `digest_of` the object's content after that write."""


class Doubts:
    """The notes of one trial. Methods are not safe to be called by several threads at once."""

    def __init__(self, directory: Path) -> None:
        """Take up those of the last owner of a spool's `directory`. Damaged ones are dropped."""
        self.directory = directory
        self._doubts = {doubt.key: doubt for doubt in self._load()}

    def __len__(self) -> int:
        return len(self._doubts)

    def __contains__(self, key: str) -> bool:
        return key in self._doubts

    def oldest_first(self) -> list[Doubt]:
        """All of them, by when they began."""
        return sorted(self._doubts.values(), key=lambda doubt: doubt.since)

    def content(self, key: str) -> bytes | None:
        """Of the newest write that was answered; None if it is not known."""
        try:
            return load_write(self._path(key))[1] if self._doubts[key].kind else None
        except (OSError, ValueError):
            return None

    def begin(self, key: str, since: float) -> None:
        """A request has gone unanswered."""
        content = self.content(key) if key in self._doubts else None
        known = self._doubts[key] if content is not None else Doubt(key, since)
        self._keep(replace(known, since=since), content or b"")

    def made(self, kind: Kind, key: str, data: bytes) -> None:
        """A write was answered: if the object is in doubt, this is what it has to be."""
        if key in self._doubts:
            self._keep(replace(self._doubts[key], kind=kind), data)

    def end(self, key: str) -> None:
        """Storage has been seen to hold the newest content."""
        self._path(key).unlink(missing_ok=True)
        del self._doubts[key]

    def clear(self) -> None:
        """Forget all."""
        for key in list(self._doubts):
            self.end(key)

    def _keep(self, doubt: Doubt, content: bytes) -> None:
        header = {"key": doubt.key, "since": doubt.since, "kind": doubt.kind}
        try:
            digest = save_write(self._path(doubt.key), header, content)
        except OSError as error:
            LOGGER.warning("%s cannot be written: %s; %s stays in doubt", self.directory, error.strerror, doubt.key)
            self._path(doubt.key).unlink(missing_ok=True)  # what it holds is no longer the newest
            self._doubts[doubt.key] = Doubt(doubt.key, doubt.since)
        else:
            self._doubts[doubt.key] = replace(doubt, digest=digest if doubt.kind in ("put", "grow") else "")

    def _load(self) -> Iterator[Doubt]:
        for path in sorted(self.directory.glob(f"{_NAME}*")):
            try:
                said, _ = load_write(path)
                digest = said["sha256"] if said["kind"] in ("put", "grow") else ""
                yield Doubt(said["key"], float(said["since"]), said["kind"], digest)
            except (ValueError, KeyError, TypeError):
                path.unlink()

    def _path(self, key: str) -> Path:
        return self.directory / (_NAME + hashlib.sha256(key.encode()).hexdigest()[:32])
