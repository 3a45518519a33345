"""Law 4: a write that was given up, and reaches storage late, does not stand over a newer one in a finished trial."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.errors import StorageError, WaitingError
from resnet_dist.storage import doubts
from resnet_dist.storage import spooled as spooled_storage
from resnet_dist.storage.interface import TrialKeys
from resnet_dist.storage.spool import Spool
from resnet_dist.storage.spooled import SpooledStorage, SupersededError, flush
from tests.unreliable_storage import UnreliableStorage

TRIAL = "a" * 16
KEYS = TrialKeys("experiment", TRIAL)


class LateStorage(UnreliableStorage):
    """Remote storage that makes chosen writes twice: when they are tried again, and once more when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lose = ""
        """Key of which the next write goes unanswered at first."""
        self.also_fails = False
        """Whether it is not tried again."""
        self.reads: list[str] = []
        self.late: list[Callable[[], None]] = []

    def put(self, key: str, data: bytes) -> None:
        self._lose(key, lambda: LocalStorage.put(self, key, data))
        super().put(key, data)

    def delete(self, key: str) -> None:
        self._lose(key, lambda: LocalStorage.delete(self, key))
        super().delete(key)

    def get(self, key: str) -> bytes | None:
        self.reads.append(key)
        return super().get(key)

    def arrive(self) -> None:
        """What was lost arrives."""
        while self.late:
            self.late.pop(0)()

    def _lose(self, key: str, request: Callable[[], None]) -> None:
        if key == self.lose:
            self.lose = ""
            self.late.append(request)
            self.unanswered[key] = time.time()
            if self.also_fails:
                self.also_fails = False
                raise StorageError(f"cannot write {key}: no answer")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled_storage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(spooled_storage, "LONGEST_PAUSE", 0.01)


@pytest.fixture
def storage(tmp_path: Path) -> LateStorage:
    return LateStorage(tmp_path / "results")


def opened(storage: LocalStorage) -> SpooledStorage:
    return SpooledStorage(storage, "experiment", TRIAL, patience=0)


def sent(spooled: SpooledStorage) -> None:
    """Wait until nothing waits; the test's time limit ends it otherwise."""
    while spooled.counts.totals().waiting_writes:
        time.sleep(0.002)


def write_metrics(storage: LateStorage, spooled: SpooledStorage) -> None:
    """Two epochs' lines, the first of which goes unanswered at first."""
    storage.lose = KEYS.metrics
    spooled.put(KEYS.metrics, b"1\n")
    sent(spooled)
    spooled.put(KEYS.metrics, b"1\n2\n")
    sent(spooled)


@pytest.mark.parametrize("also_fails", [False, True])
def test_an_older_write_that_arrives_late_is_made_up_for_before_the_result(
    storage: LateStorage, also_fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    storage.also_fails = also_fails
    with opened(storage) as spooled:
        write_metrics(storage, spooled)
        storage.arrive()
        assert storage.get(KEYS.metrics) == b"1\n"
        spooled.put(KEYS.result, b"{}")
    assert storage.done[-2:] == [f"put {KEYS.metrics}", f"put {KEYS.result}"]
    assert storage.get(KEYS.metrics) == b"1\n2\n"
    assert f"{KEYS.metrics}: an older write has arrived late" in caplog.text
    assert not spooled._spool.directory.exists()


def test_the_result_waits_until_nothing_can_arrive_any_more(
    storage: LateStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []

    def pass_time(pause: float) -> None:
        pauses.append(pause)
        assert storage.get(KEYS.result) is None
        storage.arrive()

    monkeypatch.setattr(spooled_storage, "sleep", pass_time)
    storage.settling = 1000.0
    with opened(storage) as spooled:
        write_metrics(storage, spooled)
        spooled.put(KEYS.result, b"{}")
    assert pauses and all(0 < pause <= 1000 for pause in pauses)
    assert storage.get(KEYS.metrics) == b"1\n2\n" and storage.get(KEYS.result) == b"{}"


def test_where_every_write_is_answered_nothing_is_read_back(storage: LateStorage) -> None:
    storage.settling = 60
    with opened(storage) as spooled:
        storage.reads.clear()
        spooled.put(KEYS.metrics, b"1\n")
        spooled.put(KEYS.result, b"{}")
    assert storage.reads == []


def test_what_was_deleted_does_not_come_back(storage: LateStorage) -> None:
    with opened(storage) as spooled:
        storage.lose = "manifest"
        spooled.put("manifest", b"old")
        sent(spooled)
        spooled.delete("manifest")
        sent(spooled)
        storage.arrive()
        assert storage.get("manifest") == b"old"
    assert storage.get("manifest") is None


def test_a_deletion_that_arrives_late_takes_nothing_away(storage: LateStorage) -> None:
    with opened(storage) as spooled:
        storage.lose = KEYS.failure
        spooled.delete(KEYS.failure)
        sent(spooled)
        spooled.put(KEYS.failure, b"diverged")
        sent(spooled)
        storage.arrive()
        assert storage.get(KEYS.failure) is None
    assert storage.get(KEYS.failure) == b"diverged"


def test_doubt_outlives_the_run_and_the_next_launch_or_flush_ends_it(storage: LateStorage) -> None:
    with opened(storage) as spooled:
        write_metrics(storage, spooled)
        storage.broken = True
    with pytest.raises(WaitingError, match=r"whether storage holds all that was written is not known.*flush"):
        spooled.require_complete("it ran")
    storage.arrive()
    storage.broken = False
    assert flush(storage, "experiment", TRIAL) == (0, 0)
    assert storage.get(KEYS.metrics) == b"1\n2\n"
    assert not spooled._spool.directory.exists()


@pytest.mark.parametrize("orderly", [False, True])
def test_what_a_killed_process_may_have_been_sending_is_in_doubt(storage: LateStorage, orderly: bool) -> None:
    earlier = Spool(storage, "experiment", TRIAL, patience=0)
    earlier.append("put", KEYS.metrics, b"1\n")
    earlier.expect({""})
    if orderly:
        earlier.close()
    else:
        os.close(earlier._lock)  # as the system does
    with opened(storage) as spooled:
        spooled.put(KEYS.metrics, b"1\n2\n")
        sent(spooled)
        LocalStorage.put(storage, KEYS.metrics, b"1\n")  # sent by the one that is gone
    assert storage.get(KEYS.metrics) == (b"1\n" if orderly else b"1\n2\n")


def test_an_older_provenance_that_arrives_late_is_no_other_launch(storage: LateStorage) -> None:
    with opened(storage) as spooled:
        storage.lose = KEYS.provenance
        spooled.put(KEYS.provenance, b"started")
        sent(spooled)
        spooled.put(KEYS.provenance, b"finished")
        sent(spooled)
        storage.arrive()
        storage.broken = True
        spooled.put(KEYS.metrics, b"1\n")
        while not storage.tries:
            time.sleep(0.002)
        storage.broken = False
    spooled.require_complete("it ran")
    assert (storage.get(KEYS.provenance), storage.get(KEYS.metrics)) == (b"finished", b"1\n")


def test_what_another_launch_has_written_since_is_left_alone(storage: LateStorage) -> None:
    with opened(storage) as spooled:
        write_metrics(storage, spooled)
        LocalStorage.put(storage, KEYS.provenance, b"another attempt's")
        LocalStorage.put(storage, KEYS.metrics, b"newer")
    with pytest.raises(SupersededError):
        spooled.require_complete("it ran")
    assert storage.get(KEYS.metrics) == b"newer"


def test_with_a_full_disk_a_write_in_doubt_stays_so_and_the_run_goes_on(
    storage: LateStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doubts, "save_write", full)
    with opened(storage) as spooled:
        write_metrics(storage, spooled)
    spooled.require_complete("it ran")
    assert f"No space left on device; {KEYS.metrics} stays in doubt" in caplog.text
