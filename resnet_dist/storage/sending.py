"""Storage as one run writes to it: in order, and whether or not storage can be reached at the moment.

Writes to remote storage wait in the trial's spool on local disk (`spool`) and go up one after the other in a thread of
their own: training waits for them at its end alone, and what is in memory is the one that is under way. Writes to a
directory are made at once; it is when one fails that it waits, with all after it. Reading sees what waits.

Storage that cannot be written is announced in one line, and tried again for as long as the run goes on. What still
waits at the run's end stays in the spool, for the next launch on this host or `resnet-dist storage flush`.

Meanwhile a launch on another host may have gone on with the trial, as it may while this process is stopped. What waits
here is then older than what is in storage and is dropped. The fence that tells is the trial's provenance, which each
attempt writes first: it is no longer the one seen last.
"""

import logging
import shlex
import threading
import time
from types import TracebackType

from resnet_dist.errors import StorageError, WaitingError
from resnet_dist.storage.interface import Storage, StoredObject, TrialKeys
from resnet_dist.storage.spool import Spool, Write
from resnet_dist.storage.spool_files import Kind, digest_of
from resnet_dist.threads import helper_thread

LOGGER = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds between tries while storage cannot be written; each try has retries of its own."""
FENCE_SECONDS = 20.0
"""Seconds after which a write looks again whether the trial is still ours: this process may have been stopped."""
LOCK_PATIENCE = 20.0
"""Seconds for which a process that was told to end may still hold the spool."""
PATIENCE_AFTER_INTERRUPT = 5.0
"""Seconds for which Ctrl-C waits for what is under way; the rest goes up with the next launch."""


class SupersededError(StorageError):
    """Another launch has gone on with the trial."""


class SpooledStorage:
    """`storage` for the run of one trial. A context manager: leaving it waits for the writes.

    Opening it raises a `StorageError` if storage cannot be read, the spool cannot be written, or another process of
    this host writes the same trial (for whose end `patience` seconds are waited).
    """

    def __init__(self, storage: Storage, experiment: str, trial_id: str, patience: float = LOCK_PATIENCE) -> None:
        self.storage = storage
        self.uri, self.place, self.is_remote = storage.uri, storage.place, storage.is_remote
        self.counts = storage.counts
        """Those of `storage`, with what waits."""
        self.trouble = ""
        """Why storage cannot be written at the moment; one line, empty if all is well."""
        self.found = self.dropped = 0
        """Writes of an earlier process that waited and are sent now; those older than what is in storage."""
        keys = TrialKeys(experiment, trial_id)
        self._fence_key = keys.provenance
        self._fences: set[str] = set()  # digests of all that was written there: an earlier one may arrive late
        self._changed = threading.Condition()
        self._closing = False
        self._looked = time.monotonic()  # whether the trial is ours
        self._failed: Exception | None = None  # for good
        self._thread: threading.Thread | None = None
        self._spool = Spool(storage, experiment, trial_id, patience)
        try:
            self._take_over()
        except BaseException:
            self._spool.close()
            raise

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing an older one."""
        self._write("put", key, data)

    def grow(self, key: str, data: bytes) -> None:
        """Write an object that begins with what it held before."""
        self._write("grow", key, data)

    def delete(self, key: str) -> None:
        """Remove an object. One that is not there is no error."""
        self._write("delete", key, b"")

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one is there already: at once, since the answer is needed."""
        return self.storage.create(key, data)

    def get(self, key: str) -> bytes | None:
        """Read an object; None if there is none."""
        with self._changed:
            waiting = self._spool.last(key)
            if waiting is not None:
                return None if waiting.kind == "delete" else self._spool.data(waiting)
        return self.storage.get(key)

    def list(self, prefix: str) -> list[StoredObject]:
        """Every object whose key starts with `prefix`, in key order."""
        with self._changed:  # before the listing, which may then hold what no longer waits
            waiting = {write.key: write for write in self._spool.writes if write.key.startswith(prefix)}
        found = {item.key: item for item in self.storage.list(prefix)}
        for key, write in waiting.items():
            found.pop(key, None)
            if write.kind != "delete":
                found[key] = StoredObject(key, write.size, f"spool-{write.digest}")
        return sorted(found.values(), key=lambda item: item.key.encode())

    def check_writable(self) -> None:
        """As `storage`."""
        self.storage.check_writable()

    def __enter__(self) -> "SpooledStorage":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close(PATIENCE_AFTER_INTERRUPT if kind and not issubclass(kind, Exception) else None)

    def close(self, patience: float | None = None) -> None:
        """Wait until every write is in storage, or a try that began meanwhile has failed, or `patience` s are over."""
        with self._changed:
            self._closing = True
            self._tell()
        if self._thread is not None:
            self._thread.join(patience)
            if self._thread.is_alive():
                return  # this process is about to end; until then the spool stays its own
        self._spool.close()

    def require_complete(self, what: str) -> None:
        """After `close`: raise a `WaitingError` if something still waits, and what ended the uploads if it was else."""
        if self._failed is not None:
            raise self._failed
        count, size = len(self._spool.writes), self._spool.size
        if count:
            raise WaitingError(
                f"{what}, but {count} of its writes ({size / 1e6:.1f} MB) could not be made: {self.trouble}. They wait "
                f"in {self._spool.directory}, and are made by the next launch on this host or by: "
                f"resnet-dist storage flush {shlex.quote(self.uri)}"
            )

    def _take_over(self) -> None:
        """Begin to send what an earlier process left, unless storage has something newer."""
        if self._spool.writes:
            try:
                self._require_ours()
            except SupersededError as error:
                self.dropped = len(self._spool.writes)
                place = self._spool.directory
                LOGGER.warning("%s; %d writes that waited in %s are dropped", error, self.dropped, place)
                self._spool.clear()
        if not self._spool.writes:
            self._spool.expect({digest_of(self.storage.get(self._fence_key))})
            return
        self.found = len(self._spool.writes)
        with self._changed:
            self._tell()
            self._start()

    def _require_ours(self) -> None:
        """Raise a `SupersededError` if another launch has written the trial since this spool's writes began."""
        if digest_of(self.storage.get(self._fence_key)) not in self._spool.expected():
            trial = self._fence_key.rpartition("/")[0]
            raise SupersededError(f"{self.uri}/{trial}: another launch has gone on with this trial, or removed it")
        self._looked = time.monotonic()

    def _write(self, kind: Kind, key: str, data: bytes) -> None:
        with self._changed:
            if self._failed is not None:
                raise self._failed
            at_once = not self.is_remote and not self._spool.writes
        if at_once:
            try:
                self._send(kind, key, data)
                return
            except SupersededError as error:
                self._failed = error
                raise
            except StorageError as error:
                self._announce(error)
        with self._changed:
            try:
                self._spool.append(kind, key, data)
            except OSError as error:
                LOGGER.warning("%s cannot be written: %s", self._spool.directory, error.strerror)
            else:
                self._start()
                self._tell()
                return
            # The disk is full or gone: the run has to wait for storage.
            self._changed.wait_for(lambda: not self._spool.writes or self.trouble or self._failed is not None)
            if self._failed is not None:
                raise self._failed
            if self._spool.writes:
                raise StorageError(f"{self.trouble}; and the spool in {self._spool.directory} cannot be written either")
        self._send(kind, key, data)

    def _send(self, kind: Kind, key: str, data: bytes) -> None:
        if time.monotonic() - self._looked > FENCE_SECONDS:
            self._require_ours()
        if is_fence := key == self._fence_key:
            self._fences.add(digest_of(data))
            self._spool.expect(self._spool.expected() | self._fences)  # a write that fails may have been made
        if kind == "put":
            self.storage.put(key, data)
        elif kind == "grow":
            self.storage.grow(key, data)
        else:
            self.storage.delete(key)
        if is_fence:
            self._spool.expect(self._fences)

    def _tell(self) -> None:
        """Tell other threads, and whoever watches the counts, that something is different. The caller has the lock."""
        self.counts.waiting(len(self._spool.writes), self._spool.size, self.trouble)
        self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = helper_thread(self._upload, "uploads")
            self._thread.start()

    def _upload(self) -> None:
        try:
            pause = FIRST_PAUSE
            while (write := self._next()) is not None:
                is_last = self._closing  # a try that begins before the run's end, and fails after it, is not the last
                if self._is_sent(write):
                    pause = FIRST_PAUSE
                    continue
                with self._changed:
                    if is_last:
                        return
                    self._changed.wait_for(lambda: self._closing, pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        except Exception as error:
            with self._changed:
                if isinstance(error, SupersededError):
                    self._spool.clear()
                self._failed = error
                self._tell()

    def _is_sent(self, write: Write) -> bool:
        """Try to make a write; False if storage cannot be written at the moment."""
        try:
            if self.trouble:
                self._require_ours()
            self._send(write.kind, write.key, self._spool.data(write))
        except SupersededError:
            raise
        except StorageError as error:
            self._announce(error)
            with self._changed:
                self._spool.begun = None
            return False
        self._done(write)
        return True

    def _next(self) -> Write | None:
        """Wait for a write. None if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._spool.writes or self._closing)
            self._spool.begun = self._spool.writes[0] if self._spool.writes else None
            return self._spool.begun

    def _done(self, write: Write) -> None:
        with self._changed:
            self._spool.begun = None
            self._spool.remove(write)
            if self.trouble:
                self.trouble = ""
                LOGGER.warning("%s can be written again; what waited is being sent", self.uri)
            self._tell()

    def _announce(self, error: StorageError) -> None:
        with self._changed:
            first, self.trouble = not self.trouble, str(error)
            self._tell()
        if first:
            LOGGER.warning(
                "%s. The run goes on; until that is mended, its records wait in %s", error, self._spool.directory
            )


def flush(storage: Storage, experiment: str, trial_id: str) -> tuple[int, int]:
    """Make the waiting writes of a trial. Returns how many were made, and how many dropped as older than storage.

    Raises a `StorageError` if storage cannot be written, and `SpoolInUseError` if a process is at it already.
    """
    with SpooledStorage(storage, experiment, trial_id, patience=0) as spooled:
        pass
    spooled.require_complete(f"{experiment}/{trial_id} has run")
    return spooled.found, spooled.dropped
