"""A run's writes reach storage in order, at most one at a time, and wait on disk while storage cannot be written."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.errors import StorageError, WaitingError
from resnet_dist.storage import sending
from resnet_dist.storage.interface import TrialKeys
from resnet_dist.storage.sending import SpooledStorage, SupersededError, flush
from resnet_dist.storage.spool import Spool, spool_directory, spooled_trials
from tests.unreliable_storage import UnreliableStorage

TRIAL = "a" * 16
GUARD = TrialKeys("experiment", TRIAL).provenance


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sending, "LONGEST_PAUSE", 0.01)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[UnreliableStorage]:
    made = UnreliableStorage(tmp_path / "results")
    yield made
    made.gate.set()


def opened(storage: LocalStorage) -> SpooledStorage:
    return SpooledStorage(storage, "experiment", TRIAL, patience=0)


def test_writing_does_not_wait_for_storage_but_the_end_does(storage: UnreliableStorage) -> None:
    storage.gate.clear()
    with opened(storage) as spooled:
        for number in range(5):
            spooled.put(f"key {number}", b"x")
        spooled.delete("other")
        assert storage.done == []
        threading.Timer(0.1, storage.gate.set).start()
    assert storage.done == [*(f"put key {number}" for number in range(5)), "delete other"]
    assert storage.most_under_way == 1
    spooled.require_complete("the run is over")


def test_memory_holds_one_write_however_many_wait(storage: UnreliableStorage) -> None:
    import tracemalloc

    storage.gate.clear()
    tracemalloc.start()
    spooled = opened(storage)
    for number in range(20):
        spooled.put(f"key {number}", bytes(2**20))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert waiting(spooled) == (20, 20 * 2**20)
    assert held < 4 * 2**20
    storage.gate.set()
    spooled.close()


def test_reading_sees_what_waits(storage: UnreliableStorage) -> None:
    LocalStorage.put(storage, "a/1", b"old")
    LocalStorage.put(storage, "a/2", b"old")
    LocalStorage.put(storage, "a/3", b"old")
    storage.gate.clear()
    spooled = opened(storage)
    spooled.put("a/1", b"new!")
    spooled.delete("a/2")
    spooled.put("a/4", b"new")
    assert [spooled.get(f"a/{number}") for number in (1, 2, 3, 4)] == [b"new!", None, b"old", b"new"]
    assert [(item.key, item.size) for item in spooled.list("a/")] == [("a/1", 4), ("a/3", 3), ("a/4", 3)]
    storage.gate.set()
    spooled.close()


def test_a_directory_is_written_at_once(tmp_path: Path) -> None:
    storage = UnreliableStorage(tmp_path, remote=False)
    with opened(storage) as spooled:
        spooled.put("a", b"1")
        assert storage.done == ["put a"]


@pytest.mark.parametrize("remote", [True, False])
def test_an_outage_is_announced_once_and_made_up_for(
    tmp_path: Path, remote: bool, caplog: pytest.LogCaptureFixture
) -> None:
    storage = UnreliableStorage(tmp_path / "results", remote)
    with opened(storage) as spooled:
        spooled.put("a", b"1")
        if remote:
            wait_for(storage, 1)
        storage.broken = True
        spooled.put("b", b"2")
        spooled.delete("a")
        spooled.put("c", b"3")
        while storage.tries < 5:
            pass_time()
        assert "out of order; mend it" in spooled.trouble
        assert waiting(spooled) == (3, 2)
        assert spooled.get("b") == b"2"
        storage.broken = False
        wait_for(storage, 4)
        spooled.put("d", b"4")
    assert storage.done == ["put a", "put b", "delete a", "put c", "put d"]
    assert spooled.trouble == ""
    first, second = caplog.messages
    assert (
        first.startswith("cannot write b: out of order; mend it. The run goes on") and str(spool_directory()) in first
    )
    assert second == f"{storage.uri} can be written again; what waited is being sent"


def test_a_write_to_a_directory_that_works_again_does_not_overtake_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE", 60.0)
    storage = UnreliableStorage(tmp_path / "results", remote=False)
    with opened(storage) as spooled:
        storage.broken = True
        spooled.put("a", b"1")
        while storage.tries < 2:  # the run's own, and the thread's, which pauses now
            pass_time()
        storage.broken = False
        spooled.put("a", b"12")
        spooled.put("b", b"2")
        assert storage.done == []
    assert storage.done[-1] == "put b" and storage.get("a") == b"12"


def test_what_waits_at_the_end_is_named_and_made_by_the_next_launch(storage: UnreliableStorage) -> None:
    storage.broken = False
    spooled = opened(storage)
    storage.broken = True
    spooled.put("a", b"1")
    spooled.put("b", b"2")
    spooled.close()
    with pytest.raises(WaitingError, match=r"^it ran, but 2 of its writes .* out of order; mend it.*flush"):
        spooled.require_complete("it ran")
    assert storage.done == []
    storage.broken = False
    assert flush(storage, "experiment", TRIAL) == (2, 0)
    assert storage.done == ["put a", "put b"]
    assert flush(storage, "experiment", TRIAL) == (0, 0)


def test_a_try_that_began_before_the_end_and_fails_after_it_is_not_the_last(
    storage: UnreliableStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mended(key: str) -> bytes | None:  # what the next try asks first
        storage.broken = False
        return LocalStorage.get(storage, key)

    storage.gate.clear()
    spooled = opened(storage)
    spooled.put("a", b"1")
    while not storage.under_way:
        pass_time()
    closing = threading.Thread(target=spooled.close)
    closing.start()
    while not spooled._closing:
        pass_time()
    storage.broken = True
    monkeypatch.setattr(storage, "get", mended)
    storage.gate.set()
    closing.join()
    spooled.require_complete("it ran")
    assert storage.done == ["put a"]


def test_while_storage_cannot_be_read_a_run_does_not_begin(storage: UnreliableStorage) -> None:
    storage.broken = True
    with pytest.raises(StorageError, match="cannot read"):
        opened(storage)
    storage.broken = False
    opened(storage).close()  # the spool was given up


def left_behind(storage: UnreliableStorage, *keys: str) -> None:
    """Writes of a run that storage did not take."""
    spooled = opened(storage)
    storage.broken = True
    for key in keys:
        spooled.put(key, b"ours")
    spooled.close()
    storage.broken = False


def test_what_is_newer_in_storage_is_not_overwritten(
    storage: UnreliableStorage, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind(storage, "metrics")
    LocalStorage.put(storage, GUARD, b"another attempt's")
    LocalStorage.put(storage, "metrics", b"newer")
    caplog.clear()
    assert flush(storage, "experiment", TRIAL) == (0, 1)
    assert storage.get("metrics") == b"newer"
    assert "another launch has gone on with this trial" in caplog.text
    assert flush(storage, "experiment", TRIAL) == (0, 0)


def test_a_trial_that_was_removed_from_storage_does_not_come_back(storage: UnreliableStorage) -> None:
    LocalStorage.put(storage, GUARD, b"ours")
    left_behind(storage, "metrics")
    LocalStorage.delete(storage, GUARD)
    assert flush(storage, "experiment", TRIAL) == (0, 1)
    assert storage.list("") == []


def test_a_run_whose_trial_another_has_taken_over_ends(storage: UnreliableStorage) -> None:
    spooled = opened(storage)
    spooled.put(GUARD, b"ours")
    wait_for(storage, 1)
    storage.broken = True
    spooled.put("metrics", b"ours")
    while not storage.tries:
        pass_time()
    LocalStorage.put(storage, GUARD, b"theirs")
    LocalStorage.put(storage, "metrics", b"newer")
    storage.broken = False
    spooled._thread.join(10)  # type: ignore[union-attr]
    with pytest.raises(SupersededError):
        spooled.put("metrics", b"ours, later")
    spooled.close()
    with pytest.raises(SupersededError):
        spooled.require_complete("it ran")
    assert LocalStorage.get(storage, "metrics") == b"newer"


@pytest.mark.parametrize("remote", [True, False])
def test_a_process_that_was_stopped_while_another_went_on_writes_nothing_when_it_wakes_up(
    remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = UnreliableStorage(tmp_path, remote)
    now = 1000.0
    monkeypatch.setattr(sending, "time", SimpleNamespace(monotonic=lambda: now))
    spooled = opened(storage)
    spooled.put(GUARD, b"ours")
    spooled.put("metrics", b"ours")
    wait_for(storage, 2)
    LocalStorage.put(storage, GUARD, b"theirs")
    LocalStorage.put(storage, "metrics", b"newer")
    now += sending.FENCE_SECONDS + 1  # it sleeps
    for _ in range(2):
        with contextlib.suppress(SupersededError):
            spooled.put("metrics", b"ours, later")
    spooled.close()
    with pytest.raises(SupersededError):
        spooled.require_complete("it ran")
    assert LocalStorage.get(storage, "metrics") == b"newer"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_first_write_that_was_made_though_it_failed_is_still_ours(storage: UnreliableStorage, moment: str) -> None:
    spooled = opened(storage)
    storage.broken = True
    if moment == "after":
        storage.before = lambda change: LocalStorage.put(storage, GUARD, b"first") if change == f"put {GUARD}" else None
    spooled.put(GUARD, b"first")
    spooled.put("metrics", b"1")
    while storage.tries < 2:
        pass_time()
    storage.before = lambda change: None
    spooled.put(GUARD, b"second")  # takes the place of the first one
    spooled.close()
    storage.broken = False
    assert flush(storage, "experiment", TRIAL) == (2, 0)
    assert storage.get(GUARD) == b"second" and storage.get("metrics") == b"1"


@pytest.mark.parametrize("storage_works", [True, False])
def test_with_a_full_disk_a_run_waits_for_storage(
    storage: UnreliableStorage, storage_works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    spooled = opened(storage)
    storage.broken = not storage_works
    spooled.put("a", b"1")
    monkeypatch.setattr(Spool, "append", full)
    if storage_works:
        spooled.put("b", b"2")
        assert storage.done == ["put a", "put b"]
    else:
        with pytest.raises(StorageError, match="out of order; mend it; and the spool in"):
            spooled.put("b", b"2")
    spooled.close()


def test_ctrl_c_does_not_wait_for_a_hanging_storage(
    storage: UnreliableStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PATIENCE_AFTER_INTERRUPT", 0.05)
    storage.gate.clear()
    spooled = opened(storage)
    with pytest.raises(KeyboardInterrupt), spooled:
        spooled.put("a", b"1")
        raise KeyboardInterrupt
    assert storage.done == []
    storage.gate.set()
    spooled.close()


def test_a_directory_that_becomes_read_only_disturbs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path / "results")
    read_only = False
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if read_only and (tmp_path / "results") in Path(target).parents:
            raise OSError(30, "Read-only file system")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    spooled = opened(storage)
    spooled.put("a", b"1")
    read_only = True
    spooled.put("a", b"12")
    spooled.put("b", b"2")
    assert spooled.get("a") == b"12"
    spooled.close()
    assert storage.get("a") == b"1"
    with pytest.raises(WaitingError, match="Read-only file system; remount it for writing"):
        spooled.require_complete("it ran")
    read_only = False
    assert flush(storage, "experiment", TRIAL) == (2, 0)
    assert storage.get("a") == b"12" and storage.get("b") == b"2"
    assert list(spooled_trials(storage.place)) == []


def waiting(spooled: SpooledStorage) -> tuple[int, int]:
    totals = spooled.counts.totals()
    return totals.waiting_writes, totals.waiting_bytes


def pass_time() -> None:
    threading.Event().wait(0.005)


def wait_for(storage: UnreliableStorage, writes: int) -> None:
    """Until so many writes have been made; the test's time limit ends it otherwise."""
    while len(storage.done) < writes:
        pass_time()


def test_an_older_provenance_that_arrives_late_is_no_other_launch(storage: UnreliableStorage) -> None:
    with opened(storage) as spooled:
        for content in (b"started", b"finished"):
            spooled.put(GUARD, content)
            while spooled.counts.totals().waiting_writes:
                time.sleep(0.002)
        LocalStorage.put(storage, GUARD, b"started")  # once more
        storage.broken = True
        spooled.put("metrics", b"1\n")
        while not storage.tries:
            time.sleep(0.002)
        storage.broken = False
    spooled.require_complete("it ran")
    assert storage.get("metrics") == b"1\n"
