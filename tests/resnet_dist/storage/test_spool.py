"""What waits on disk is a sound beginning of what was to be written, in order, and no more than a trial keeps."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.errors import StorageError
from resnet_dist.storage.spool import Spool, SpoolInUseError, spooled_trials


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "results")


def opened(storage: LocalStorage, trial: str = "a" * 16) -> Spool:
    return Spool(storage, "experiment", trial, patience=0)


def waiting(spool: Spool) -> list[str]:
    return [f"{write.kind} {write.key}" for write in spool.writes]


def test_what_waits_outlives_its_process_in_order(storage: LocalStorage) -> None:
    spool = opened(storage)
    spool.append("put", "a", b"1")
    spool.append("grow", "b", b"22")
    spool.append("delete", "c")
    spool.close()
    again = opened(storage)
    assert waiting(again) == ["put a", "grow b", "delete c"]
    assert [again.data(write) for write in again.writes] == [b"1", b"22", b""]
    assert again.size == 3
    again.close()


def test_nothing_is_left_of_a_spool_in_which_nothing_waits(storage: LocalStorage) -> None:
    spool = opened(storage)
    spool.append("put", "a", b"1")
    spool.expect({"", "0"})
    assert list(spooled_trials(storage.place)) == [(storage.uri, "experiment", "a" * 16)]
    spool.remove(spool.writes[0])
    spool.close()
    assert not spool.directory.exists()
    assert list(spooled_trials(storage.place)) == []


def test_each_storage_and_trial_has_its_own(storage: LocalStorage, tmp_path: Path) -> None:
    spools = [opened(storage), opened(storage, "b" * 16), opened(LocalStorage(tmp_path / "other"))]
    for number, spool in enumerate(spools):
        spool.append("put", "a", b"%d" % number)
    assert len(list(spooled_trials(storage.place))) == 2
    assert [spool.data(spool.writes[0]) for spool in spools] == [b"0", b"1", b"2"]
    for spool in spools:
        spool.close()


def test_storages_of_one_name_on_two_servers_have_each_their_own(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened(storage)
    one.append("put", "a", b"1")
    one.close()
    other = LocalStorage(storage.root)
    monkeypatch.setattr(other, "place", f"another-server {other.uri}")
    spool = opened(other)
    assert spool.writes == []
    spool.close()


def test_a_spool_has_one_owner_and_is_free_when_that_one_is_killed(storage: LocalStorage) -> None:
    code = (
        "import sys, time; from cluster.storage.local import LocalStorage\n"
        "from resnet_dist.storage.spool import Spool\n"
        f"spool = Spool(LocalStorage({storage.uri!r}), 'experiment', {'a' * 16!r}, 0)\n"
        "spool.append('put', 'a', b'1'); print('open', flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout and owner.stdout.readline()
        with pytest.raises(SpoolInUseError, match="is being written by another process of this host"):
            opened(storage)
        owner.kill()
        owner.wait()
        spool = opened(storage)
    assert waiting(spool) == ["put a"]
    spool.close()


@pytest.mark.parametrize("damage", ["cut short", "emptied", "changed", "not text"])
def test_a_damaged_write_and_all_after_it_are_dropped(storage: LocalStorage, damage: str) -> None:
    spool = opened(storage)
    for key in ("a", "b", "c"):
        spool.append("put", key, b"content")
    path = sorted(spool.directory.glob("0*"))[1]
    data = path.read_bytes()
    path.write_bytes({"cut short": data[:-1], "emptied": b"", "changed": data + b"+", "not text": b"\xff\n"}[damage])
    spool.close()
    again = opened(storage)
    assert waiting(again) == ["put a"]
    again.append("put", "d", b"1")
    again.close()
    spool = opened(storage)
    assert waiting(spool) == ["put a", "put d"]
    spool.close()


class KilledError(OSError):
    """In the place of a process that dies."""


def test_a_process_that_dies_while_it_forgets_leaves_a_beginning(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def last(path: Path, missing_ok: bool = False) -> None:
        """Remove one write, and then no other."""
        if path.name.isdecimal():
            if forgotten:
                raise KilledError
            forgotten.append(path)
        unlink(path, missing_ok)

    spool = opened(storage)
    for key in ("a", "b", "c", "d"):
        spool.append("put", key, b"content")
    forgotten: list[Path] = []
    with monkeypatch.context() as context, pytest.raises(KilledError):
        context.setattr(Path, "unlink", last)
        spool.clear()
    spool.close()
    again = opened(storage)
    assert waiting(again) == ["put a", "put b", "put c"]
    sorted(again.directory.glob("0*"))[1].write_bytes(b"damaged")
    again.close()
    forgotten.clear()
    with monkeypatch.context() as context, pytest.raises(StorageError):
        context.setattr(Path, "unlink", last)
        opened(storage)
    spool = opened(storage)
    assert waiting(spool) == ["put a"], "c does not come after what was lost"
    spool.close()


def test_a_half_written_file_is_no_write(storage: LocalStorage) -> None:
    spool = opened(storage)
    spool.append("put", "a", b"1")
    (spool.directory / "000000000002-99.partial").write_bytes(b"half")
    spool.close()
    again = opened(storage)
    assert waiting(again) == ["put a"]
    assert not list(again.directory.glob("*partial"))
    again.close()


def test_a_newer_content_takes_the_place_of_the_older_one(storage: LocalStorage) -> None:
    spool = opened(storage)
    for key, data in (("metrics", b"1"), ("manifest", b"m"), ("metrics", b"12")):
        spool.append("grow", key, data)
    assert waiting(spool) == ["grow metrics", "grow manifest"]  # a checkpoint never comes before its epoch's line
    assert spool.data(spool.writes[0]) == b"12"
    spool.append("put", "metrics", b"other")
    assert waiting(spool) == ["put metrics", "grow manifest"]
    spool.close()


def test_what_is_under_way_is_left_alone(storage: LocalStorage) -> None:
    spool = opened(storage)
    spool.append("put", "a", b"1")
    spool.begun = spool.writes[0]
    spool.append("put", "a", b"2")
    spool.append("put", "a", b"3")
    assert [spool.data(write) for write in spool.writes] == [b"1", b"3"]
    spool.append("delete", "a")
    assert waiting(spool) == ["put a", "delete a"]
    spool.close()


def test_what_is_deleted_before_it_went_up_is_not_sent(storage: LocalStorage) -> None:
    spool = opened(storage)
    for step in range(1, 6):  # checkpoints, the last two kept
        spool.append("put", f"{step}/manifest", b"m")
        spool.append("delete", f"{step - 2}/manifest")
    # Those of before are deleted only after the newest that is sent, or for a moment there would be none.
    assert waiting(spool)[:2] == ["put 4/manifest", "put 5/manifest"]
    assert sorted(waiting(spool)[2:]) == [f"delete {step}/manifest" for step in (-1, 0, 1, 2, 3)]
    spool.close()
    again = opened(storage)
    assert waiting(again) == waiting(spool)
    again.close()


def test_a_deletion_stays_before_what_is_written_anew(storage: LocalStorage) -> None:
    spool = opened(storage)
    spool.append("delete", "failure")
    spool.append("put", "failure", b"f")
    spool.append("put", "other", b"o")
    spool.append("delete", "other")
    assert waiting(spool) == ["delete failure", "put failure", "delete other"]
    spool.close()


def test_a_spool_that_cannot_be_is_one_line_with_its_variable(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNET_DIST_SPOOL", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set RESNET_DIST_SPOOL to one that can") as caught:
        opened(storage)
    assert "\n" not in str(caught.value)


def test_without_flock_there_is_no_lock_that_would_outlive_a_killed_process(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StorageError, match="cannot be written"):
        opened(storage)


def test_a_spool_that_could_not_be_opened_can_be_later(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("resnet_dist.storage.spool.save", full)
        with pytest.raises(StorageError, match="No space left on device"):
            opened(storage)
    spool = opened(storage)
    monkeypatch.setattr("resnet_dist.storage.spool.save", full)
    with pytest.raises(StorageError, match="No space left on device"):
        spool.expect({"digest"})
    spool.close()
