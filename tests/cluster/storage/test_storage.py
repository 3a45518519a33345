"""What holds for every storage: stated once, true of a directory and of S3 over HTTP."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.storage.keys import BrowsableStorage
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError


@pytest.fixture(params=["directory", "s3", "s3 with prefix"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BrowsableStorage:
    if request.param == "directory":
        return open_storage(str(tmp_path / "my results"))
    bucket = request.getfixturevalue("bucket")
    return open_storage(f"s3://{bucket}" if request.param == "s3" else f"s3://{bucket}/my results/ä")


def keys(storage: BrowsableStorage, prefix: str = "") -> list[str]:
    return [item.key for item in storage.list(prefix)]


def test_what_was_put_is_read_back(storage: BrowsableStorage) -> None:
    storage.put("grid/trials/a/result.json", b"{}")
    assert storage.get("grid/trials/a/result.json") == b"{}"


def test_put_replaces_and_changes_the_version(storage: BrowsableStorage) -> None:
    storage.put("a", b"one")
    (before,) = storage.list("a")
    storage.put("a", b"two")
    (after,) = storage.list("a")
    assert storage.get("a") == b"two"
    assert before.version != after.version
    assert after.size == 3


def test_an_object_grows_and_is_replaced_where_it_does_not(storage: BrowsableStorage) -> None:
    for content in (b"one", b"one two", b"one two three", b"other", b"o", b"another"):
        storage.grow("a/b", content)
        assert storage.get("a/b") == content
    assert keys(storage) == ["a/b"]


def test_an_empty_object_is_an_object(storage: BrowsableStorage) -> None:
    storage.put("empty", b"")
    assert storage.get("empty") == b""
    assert storage.list("")[0].size == 0


@pytest.mark.parametrize("key", ["absent", "absent/deeper", "there/below-an-object"])
def test_a_missing_object_reads_as_none(storage: BrowsableStorage, key: str) -> None:
    storage.put("there", b"1")
    assert storage.get(key) is None


def test_parts_of_an_object_are_read(storage: BrowsableStorage) -> None:
    storage.put("a/b", b"0123456789")
    assert [storage.get_range("a/b", *part) for part in ((0, 3), (4, 1), (8, 5), (10, 2), (99, 1))] == [
        b"012",
        b"4",
        b"89",
        b"",
        b"",
    ]
    assert storage.get_range("absent", 0, 1) is None


def test_a_folder_is_no_object(storage: BrowsableStorage) -> None:
    storage.put("folder/a", b"1")
    assert storage.get("folder") is None
    storage.delete("folder")
    assert keys(storage) == ["folder/a"]


@pytest.mark.parametrize("key", ["n=3/relu/seed 0.json", "größe/日本語/🙂", "a+b&c%20d?e#f", ".ray/state", "a\\b"])
def test_keys_may_have_spaces_and_unicode(storage: BrowsableStorage, key: str) -> None:
    storage.put(key, b"x")
    assert storage.create(key, b"y") is False
    assert storage.get(key) == b"x"
    assert keys(storage) == [key]
    storage.delete(key)
    assert keys(storage) == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\0b", "\udc80", "é" * 513]
)
@pytest.mark.parametrize("uri", ["results", "s3://bucket/results"])
def test_a_key_that_some_storage_cannot_hold_is_refused(uri: str, key: str) -> None:
    storage = open_storage(uri)  # asked nothing, and so it need not exist
    for operation in (
        lambda: storage.put(key, b""),
        lambda: storage.create(key, b""),
        lambda: storage.get(key),
        lambda: storage.delete(key),
    ):
        with pytest.raises(StorageError, match="is not allowed: it ") as caught:
            operation()
        assert "\n" not in str(caught.value)


def test_a_listing_has_key_order(storage: BrowsableStorage) -> None:
    names = ["b", "a/z", "a.x", "a0", "a/b/c", "ﬀ", "🙂", "Z", "a b"]
    for name in names:
        storage.put(name, b"")
    assert keys(storage) == sorted(names, key=str.encode)
    assert keys(storage, "a/") == ["a/b/c", "a/z"]
    assert keys(storage, "a") == ["a b", "a.x", "a/b/c", "a/z", "a0"]
    assert keys(storage, "nothing/") == []


def test_folders_are_the_names_one_level_below(storage: BrowsableStorage) -> None:
    for key in ("grid/tb/a/events", "grid/trials/x", "other/tb/b", "file"):
        storage.put(key, b"")
    assert storage.folders("") == ("grid", "other")
    assert storage.folders("grid/") == ("tb", "trials")
    assert storage.folders("none/") == ()


def test_deleting_twice_is_no_error(storage: BrowsableStorage) -> None:
    storage.put("a/b", b"1")
    storage.delete("a/b")
    storage.delete("a/b")
    assert storage.get("a/b") is None
    assert storage.folders("") == ()


def test_create_does_not_replace(storage: BrowsableStorage) -> None:
    assert storage.create("lease/a", b"first") is True
    assert storage.create("lease/a", b"second") is False
    assert storage.get("lease/a") == b"first"


def test_of_eight_racing_creators_one_wins(storage: BrowsableStorage) -> None:
    for attempt in range(5):
        start = threading.Barrier(8)
        key = f"leases/{attempt}"

        def create(name: int, key: str = key, start: threading.Barrier = start) -> bool:
            start.wait()
            return storage.create(key, b"%d" % name)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert storage.get(key) == b"%d" % won.index(True)
        assert keys(storage, "leases/") == [f"leases/{n}" for n in range(attempt + 1)]


def test_a_reader_sees_whole_objects_while_they_are_replaced(storage: BrowsableStorage) -> None:
    contents = [bytes([n]) * 300_000 for n in range(12)]
    storage.put("a", contents[0])
    seen = []

    def write() -> None:
        for content in contents:
            storage.put("a", content)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        seen.append(storage.get("a"))
    writer.join()
    assert seen
    assert all(content in contents for content in seen)
    assert storage.get("a") == contents[-1]


def test_storage_travels_to_other_processes(storage: BrowsableStorage) -> None:
    storage.put("a", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.get("a") == b"1"
    assert copy.uri == storage.uri


def test_the_check_leaves_nothing_behind(storage: BrowsableStorage) -> None:
    storage.check_writable()
    assert keys(storage) == []


def test_the_check_of_a_directory_that_is_new_leaves_no_directory(tmp_path: Path) -> None:
    open_storage(tmp_path / "a" / "b").check_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    open_storage(tmp_path / "a" / "b").check_writable()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert list((tmp_path / "a").iterdir()) == []


def test_reopening_by_uri_finds_the_objects(storage: BrowsableStorage) -> None:
    storage.put("a", b"1")
    assert open_storage(storage.uri).get("a") == b"1"
    assert open_storage(storage.uri + "/").get("a") == b"1"


@pytest.mark.parametrize(
    "uri", ["gs://bucket/x", "S3://bucket", "s3:/bucket", "s3://", "s3:///x", "", " ", "s3://b/x?region=y", "s3://a b"]
)
def test_an_unknown_uri_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(StorageError, match=r"s3://bucket/prefix|AWS_ENDPOINT_URL") as caught:
        open_storage(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://user:hidden@bucket/x", "https://user:hidden@host/bucket"])
def test_a_password_in_a_uri_is_not_repeated(uri: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_storage(uri)
    assert "hidden" not in str(caught.value)


def test_a_relative_directory_stays_the_same_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("results")
    monkeypatch.chdir("/")
    storage.put("a", b"1")
    assert storage.uri == str(tmp_path / "results")
    assert (tmp_path / "results" / "a").read_bytes() == b"1"


def test_opening_a_directory_creates_nothing(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "new"))
    assert storage.list("") == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("below", ["", "results"])
def test_a_link_that_leads_nowhere_is_said_to(tmp_path: Path, below: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "disk")
    with pytest.raises(
        StorageError, match=r"cannot write .*; .*/link is a link that leads nowhere; make what it leads"
    ):
        open_storage(str(tmp_path / "link" / below)).check_writable()


def test_a_path_below_a_file_is_no_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = open_storage(str(tmp_path / "file" / "results"))
    with pytest.raises(StorageError, match=r"cannot write .*results.*; a part of this path is a file") as caught:
        storage.check_writable()
    assert "\n" not in str(caught.value)


def test_a_file_system_that_cannot_be_written_is_named() -> None:
    with pytest.raises(StorageError, match="cannot write /proc/results"):
        open_storage("/proc/results").check_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="give this user the permission"):
        open_storage(str(tmp_path)).check_writable()


def test_a_name_too_long_for_the_file_system_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(StorageError, match="choose shorter names"):
        storage.put("x" * 300, b"1")
    assert list(tmp_path.iterdir()) == []


def test_half_written_files_are_no_objects_and_no_event_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    left: list[str] = []

    def killed(descriptor: int) -> None:
        left.extend(item.name for item in tmp_path.iterdir())
        assert keys(storage) == []
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(StorageError, match="free some space"):
        storage.put("events.out.tfevents.1", b"1")
    assert len(left) == 1
    assert "tfevents" not in left[0]  # TensorBoard would read it
    assert list(tmp_path.iterdir()) == []


def test_deleting_the_last_object_removes_its_directories_but_not_the_root(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("a/b/c", b"1")
    storage.put("a/d", b"1")
    storage.delete("a/b/c")
    assert [item.name for item in (tmp_path / "a").iterdir()] == ["d"]
    storage.delete("a/d")
    assert list(tmp_path.iterdir()) == []


def test_writers_and_deleters_of_one_directory_do_not_disturb_each_other(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)

    def write_and_delete(name: int) -> None:
        for _ in range(300):
            storage.put(f"a/b/{name}", b"1")
            assert storage.get(f"a/b/{name}") == b"1"
            storage.delete(f"a/b/{name}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_and_delete, range(4)))


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        LocalStorage(tmp_path).put("a", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_two_writes_of_one_size_at_one_time_have_two_versions(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    versions = set()
    for content in (b"one", b"two"):
        storage.put("a", content)
        os.utime(tmp_path / "a", ns=(0, 0))  # as within one tick of a coarse clock
        versions.add(storage.list("a")[0].version)
    assert len(versions) == 2
