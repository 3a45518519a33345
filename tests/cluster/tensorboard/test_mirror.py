"""The local copy of event files follows what is in storage."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.storage.keys import BrowsableStorage
from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from cluster.tensorboard.mirror import Mirror, MirrorReport
from resnet_dist.errors import StorageError
from tests.s3_fixtures import put_as_named

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

RUN = "grid/tb/n=3/seed 0"
SEGMENTS = [f"{RUN}/events.out.tfevents.{number:06}" for number in range(5)]


@pytest.fixture(params=["directory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BrowsableStorage:
    if request.param == "directory":
        return open_storage(str(tmp_path / "results"))
    return open_storage(f"s3://{request.getfixturevalue('bucket')}/results")


@pytest.fixture
def mirror(storage: BrowsableStorage, tmp_path: Path) -> Mirror:
    return Mirror(storage, "grid/tb/", tmp_path / "copy")


def content(mirror: Mirror) -> dict[str, bytes]:
    files = (path for path in mirror.directory.rglob("*") if path.is_file())
    return {f"grid/tb/{path.relative_to(mirror.directory)}": path.read_bytes() for path in files}


def test_new_objects_are_copied_once(storage: BrowsableStorage, mirror: Mirror) -> None:
    storage.put("grid/trials/a/model.pt", b"not an event file")
    storage.put(SEGMENTS[0], b"0")
    storage.put("grid/tb/other/events.out.tfevents.0", b"x")
    assert mirror.sync() == MirrorReport(downloaded=2, removed=0, unchanged=0)
    assert content(mirror) == {SEGMENTS[0]: b"0", "grid/tb/other/events.out.tfevents.0": b"x"}
    storage.put(SEGMENTS[1], b"1")
    assert mirror.sync() == MirrorReport(downloaded=1, removed=0, unchanged=2)
    assert mirror.sync() == MirrorReport(downloaded=0, removed=0, unchanged=3)


def test_an_empty_storage_is_an_empty_copy(mirror: Mirror) -> None:
    assert mirror.sync() == MirrorReport(0, 0, 0)
    assert mirror.directory.is_dir()


def test_a_grown_object_grows_in_place(storage: BrowsableStorage, mirror: Mirror) -> None:
    storage.put(SEGMENTS[0], b"ab")
    mirror.sync()
    with (mirror.directory / SEGMENTS[0].removeprefix("grid/tb/")).open("rb") as reader:  # as TensorBoard holds it
        assert reader.read() == b"ab"
        storage.put(SEGMENTS[0], b"abcd")
        storage.put(SEGMENTS[1], b"1")
        assert mirror.sync() == MirrorReport(downloaded=2, removed=0, unchanged=0)
        assert reader.read() == b"cd"
    assert mirror.sync() == MirrorReport(downloaded=0, removed=0, unchanged=2)


def test_a_vanished_run_leaves_no_trace(storage: BrowsableStorage, mirror: Mirror) -> None:
    for key in SEGMENTS[:2]:
        storage.put(key, b"0")
    mirror.sync()
    for key in SEGMENTS[:2]:
        storage.delete(key)
    assert mirror.sync() == MirrorReport(downloaded=0, removed=2, unchanged=0)
    assert list(mirror.directory.iterdir()) == []


@pytest.mark.parametrize(
    "change", ["rewritten", "first grown", "first gone", "earlier added", "last rewritten", "last cut"]
)
def test_a_run_that_did_not_just_grow_is_copied_anew(storage: BrowsableStorage, mirror: Mirror, change: str) -> None:
    storage.put(SEGMENTS[1], b"1")
    storage.put(SEGMENTS[2], b"22")
    storage.put("grid/tb/other/events.out.tfevents.0", b"x")
    mirror.sync()
    if change == "first gone":
        storage.delete(SEGMENTS[1])
    else:
        key, data = {
            "rewritten": (SEGMENTS[1], b"?"),
            "first grown": (SEGMENTS[1], b"1+"),
            "earlier added": (SEGMENTS[0], b"0"),
            "last rewritten": (SEGMENTS[2], b"?"),
            "last cut": (SEGMENTS[2], b"2"),
        }[change]
        storage.put(key, data)
    storage.put(SEGMENTS[3], b"3")
    assert mirror.sync() == MirrorReport(downloaded=0, removed=2, unchanged=1)
    assert list(content(mirror)) == ["grid/tb/other/events.out.tfevents.0"]
    mirror.sync()
    assert content(mirror) == {item.key: storage.get(item.key) for item in storage.list("grid/tb/")}


def test_an_object_that_vanishes_before_its_download_is_no_error(tmp_path: Path) -> None:
    class Vanishing(LocalStorage):
        def get(self, key: str) -> bytes | None:
            self.delete(key)
            return super().get(key)

    storage = Vanishing(tmp_path / "results")
    storage.put(SEGMENTS[0], b"0")
    mirror = Mirror(storage, "grid/tb/", tmp_path / "copy")
    assert mirror.sync() == MirrorReport(0, 0, 0)
    assert mirror.sync() == MirrorReport(0, 0, 0)


def test_a_failing_download_is_made_up_for_by_the_next_sync(tmp_path: Path) -> None:
    failing = True

    class Failing(LocalStorage):
        def get(self, key: str) -> bytes | None:
            if failing and key == SEGMENTS[1]:
                raise StorageError("out of order")
            return super().get(key)

    storage = Failing(tmp_path / "results")
    for number, key in enumerate(SEGMENTS):
        storage.put(key, b"%d" % number)
    mirror = Mirror(storage, "grid/tb/", tmp_path / "copy")
    with pytest.raises(StorageError, match="out of order"):
        mirror.sync()
    assert list(content(mirror)) == SEGMENTS[:1]  # none of a later name, which TensorBoard would have read first
    failing = False
    assert mirror.sync() == MirrorReport(downloaded=4, removed=0, unchanged=1)


def test_a_full_disk_is_told_with_the_directory_of_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    storage = LocalStorage(tmp_path / "results")
    storage.put(SEGMENTS[0], b"0")
    mirror = Mirror(storage, "grid/tb/", tmp_path / "copy")
    with monkeypatch.context() as patched:
        patched.setattr("cluster.tensorboard.mirror.os.replace", full)
        with pytest.raises(
            StorageError, match=rf"^cannot copy event files to {tmp_path}/copy: No space left on device;"
        ):
            mirror.sync()
    assert mirror.sync() == MirrorReport(downloaded=1, removed=0, unchanged=0)


def test_a_name_that_files_cannot_have_is_left_out(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(f"s3://{bucket}")
    storage.put("tb/" + "x" * 300, b"1")
    storage.put("tb/fine", b"1")
    mirror = Mirror(storage, "tb/", tmp_path / "copy")
    assert mirror.sync() == MirrorReport(downloaded=1, removed=0, unchanged=0)
    assert mirror.sync() == MirrorReport(downloaded=0, removed=0, unchanged=1)
    assert len(caplog.records) == 1


def test_objects_of_others_cannot_escape_the_copy(bucket: str, administrator: "S3Client", tmp_path: Path) -> None:
    put_as_named(administrator, bucket, "tb/../../escaped")
    mirror = Mirror(open_storage(f"s3://{bucket}"), "tb/", tmp_path / "a" / "copy")
    assert mirror.sync() == MirrorReport(0, 0, 0)
    assert not (tmp_path / "escaped").exists()
