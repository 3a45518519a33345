"""The interface through which a run reaches storage, and the names of what it writes there.

A run is handed something that satisfies `Storage`; where the objects go is not its business
(`cluster.storage` has a directory and S3).
"""

from typing import NamedTuple, Protocol

from resnet_dist.storage.counts import StorageCounts

LAYOUT = 1
"""Version of the storage layout. It stands in `experiment.json` and in every `result.json`."""


class StoredObject(NamedTuple):
    """One entry of a listing."""

    key: str
    """Name below the storage's root, with `/` between its parts."""
    size: int
    """Bytes."""
    version: str
    """Changes whenever the content does (an ETag, or modification time in nanoseconds and size)."""


class Storage(Protocol):
    """Objects by key. A reader sees a whole object or none. Every failure is a `StorageError`."""

    uri: str
    """What the user gave: a directory or `s3://bucket/prefix`."""

    @property
    def counts(self) -> StorageCounts:
        """What this process has asked of it so far."""

    @property
    def place(self) -> str:
        """What tells this storage from every other: its URI and, where there is one, the server's address."""

    @property
    def is_remote(self) -> bool:
        """Whether a write goes over a network, so that a run had better not wait for it."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing an older one."""

    def grow(self, key: str, data: bytes) -> None:
        """Write an object that begins with what it held before: in place where that is possible, for who has it open.

        TensorBoard's readers, for whom this is, wait where the end of an event file is torn.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one is there already. True if this call wrote it."""

    def get(self, key: str) -> bytes | None:
        """Read an object; None if there is none."""

    def list(self, prefix: str) -> list[StoredObject]:
        """Every object whose key starts with `prefix`, in key order."""

    def delete(self, key: str) -> None:
        """Remove an object. One that is not there is no error."""

    def check_writable(self) -> None:
        """Write, read, list and delete a small object; a `StorageError` of one line says what is missing."""


class RangedStorage(Storage, Protocol):
    """Storage of which parts of objects can be read: what shards of a data set lie in."""

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """So many bytes of an object from `start` on, fewer where it ends before; None if there is no object."""


class TrialKeys:
    """Keys of everything that one trial writes, below `<experiment>/`."""

    def __init__(self, experiment: str, trial_id: str) -> None:
        self.experiment = experiment
        self.trial_id = trial_id
        self.prefix = f"{experiment}/trials/{trial_id}/"
        self.config = self.prefix + "config.json"
        self.provenance = self.prefix + "provenance.json"
        self.source_patch = self.prefix + "source.patch"
        self.metrics = self.prefix + "metrics.jsonl"
        self.checkpoints = self.prefix + "checkpoints/"
        self.model = self.prefix + "model.pt"
        self.failure = self.prefix + "failure.json"
        self.result = self.prefix + "result.json"

    def event_file(self, trial_name: str, part: str) -> str:
        """Key of one TensorBoard event file; `part` orders the files of a trial."""
        return f"{self.experiment}/tb/{trial_name}/events.out.tfevents.{part}"


def weights_key(fingerprint: str) -> str:
    """Key of weights, or of a solver's state, that runs begin from."""
    return f".data/weights/{fingerprint}.pt"


def experiment_key(experiment: str) -> str:
    """Key of the record of what was asked for."""
    return f"{experiment}/experiment.json"
