"""Copies of records on this machine are used for the listed version alone, and only save requests."""

import logging
from pathlib import Path

import pytest

from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.storage.record_cache import RecordCache
from resnet_dist.storage.interface import Storage, StoredObject


class Versioned(LocalStorage):
    """A directory that tells versions and counts its readings."""

    def __init__(self, root: Path, endpoint: str = "http://one") -> None:
        super().__init__(root)
        self.read: list[str] = []
        self.url = endpoint

    def endpoint(self) -> str:
        return self.url

    def get_with_version(self, key: str) -> tuple[bytes, str] | None:
        self.read.append(key)
        data = self.get(key)
        versions = [item.version for item in self.list(key) if item.key == key]
        return None if data is None else (data, versions[0])


@pytest.fixture
def storage(tmp_path: Path) -> Versioned:
    return Versioned(tmp_path / "results")


def only(storage: Storage, key: str = "grid/a") -> StoredObject:
    (item,) = storage.list(key)
    return item


def test_a_record_is_read_from_storage_once(storage: Versioned, tmp_path: Path) -> None:
    storage.put("grid/a", b"content")
    for _ in range(3):
        with RecordCache(storage, "grid", tmp_path / "cache") as cache:
            assert cache.get(only(storage)) == b"content"
    assert storage.read == ["grid/a"]


def test_a_record_that_was_written_anew_is_read_again(storage: Versioned, tmp_path: Path) -> None:
    for content in (b"first", b"other", b"first"):
        storage.put("grid/a", content)
        with RecordCache(storage, "grid", tmp_path / "cache") as cache:
            assert cache.get(only(storage)) == content
    assert len(storage.read) == 3


def test_what_changes_between_listing_and_reading_is_kept_under_its_own_version(
    storage: Versioned, tmp_path: Path
) -> None:
    storage.put("grid/a", b"old")
    listed = only(storage)
    storage.put("grid/a", b"new")
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert cache.get(listed) == b"new"
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert cache.get(only(storage)) == b"new"
        assert len(storage.read) == 1
        cache.get(listed)
    assert len(storage.read) == 2, "a copy was shown for a version that it is not"


def test_a_record_that_vanished_since_the_listing_is_none(storage: Versioned, tmp_path: Path) -> None:
    storage.put("grid/a", b"content")
    listed = only(storage)
    storage.delete("grid/a")
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert cache.get(listed) is None


def test_copies_of_what_is_gone_are_forgotten(storage: Versioned, tmp_path: Path) -> None:
    storage.put("grid/a", b"content")
    storage.put("grid/b", b"content")
    items = storage.list("grid/")
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert [cache.get(item) for item in items] == [b"content"] * 2
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        cache.keep_only({"grid/b"})
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert [cache.get(item) for item in items] == [b"content"] * 2
    assert storage.read == ["grid/a", "grid/b", "grid/a"]


def test_another_store_with_the_same_name_is_another_one(tmp_path: Path) -> None:
    one, other = Versioned(tmp_path / "results"), Versioned(tmp_path / "results", "http://other")
    one.put("grid/a", b"content")
    for storage in (one, other):
        with RecordCache(storage, "grid", tmp_path / "cache") as cache:
            cache.get(only(storage))
    assert other.read == ["grid/a"]


def test_copies_are_kept_while_an_error_passes(storage: Versioned, tmp_path: Path) -> None:
    storage.put("grid/a", b"content")
    with pytest.raises(KeyboardInterrupt), RecordCache(storage, "grid", tmp_path / "cache") as cache:
        cache.get(only(storage))
        raise KeyboardInterrupt
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        cache.get(only(storage))
    assert storage.read == ["grid/a"]


def test_a_damaged_cache_is_made_anew(storage: Versioned, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage.put("grid/a", b"content")
    with RecordCache(storage, "grid", tmp_path / "cache"):
        pass
    (file,) = (tmp_path / "cache" / "records").iterdir()
    file.write_bytes(b"something else " * 100)
    for _ in range(2):
        with RecordCache(storage, "grid", tmp_path / "cache") as cache:
            assert cache.get(only(storage)) == b"content"
    assert storage.read == ["grid/a"] and not caplog.records


@pytest.mark.parametrize("damage", ["a directory", "no directory"])
def test_a_cache_that_cannot_be_used_is_one_warning(
    damage: str, storage: Versioned, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage.put("grid/a", b"content")
    with RecordCache(storage, "grid", tmp_path / "cache"):
        pass
    (file,) = (tmp_path / "cache" / "records").iterdir()
    file.unlink()
    if damage == "a directory":
        file.mkdir()
    else:
        file.parent.rmdir()
        file.parent.write_bytes(b"")
    with caplog.at_level(logging.WARNING), RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert cache.get(only(storage)) == b"content"
        assert cache.get(only(storage)) == b"content"
        cache.keep_only(())
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "records are read without the cache on this machine"
    ]


def test_a_directory_is_read_where_it_is(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "results"))
    storage.put("grid/a", b"content")
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert cache.get(only(storage)) == b"content"
    assert not (tmp_path / "cache").exists()


def test_s3_tells_the_version_that_a_listing_has(bucket: str, tmp_path: Path) -> None:
    storage = open_storage(f"s3://{bucket}/results")
    storage.put("grid/a", b"content")
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert cache.get(only(storage)) == b"content"
    listed = only(storage)
    storage.delete("grid/a")
    with RecordCache(storage, "grid", tmp_path / "cache") as cache:
        assert cache.get(listed) == b"content"
