"""A run's events are in a few files that only grow; a run that goes on leaves or replaces what stands there."""

from pathlib import Path

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.storage.interface import TrialKeys
from resnet_dist.summaries.curves import Segment
from resnet_dist.summaries.event_files import FILES, EventFiles
from tests.killed_runs import points

KEYS = TrialKeys("experiment", "0" * 16)
FOLDER = "experiment/tb/name"
STEPS = 3  # of each epoch


def segment(epoch: int, offset: float = 0.0, seconds: float = 1.0) -> bytes:
    made = Segment()
    for step in range(STEPS * (epoch - 1) + 1, STEPS * epoch + 1):
        made.scalar("train/loss", step + offset, step)
    made.scalar("train/images_per_second", 100 / seconds, STEPS * epoch)
    return made.data()


def files_of(storage: LocalStorage, epochs: int, recorded: int = 0) -> EventFiles:
    """The files of a run of so many epochs, some of which an earlier attempt has recorded."""
    files = EventFiles(storage, KEYS, "name", epochs)
    if recorded:
        files.take_up(STEPS * epoch for epoch in range(1, recorded + 1))
    return files


def written(storage: LocalStorage) -> list[tuple[str, str, int, float | bytes]]:
    return points(storage, "experiment")


def expected(epochs: int, offset: float = 0.0) -> list[tuple[str, str, int, float]]:
    return [(FOLDER, "train/loss", step, step + offset) for step in range(1, STEPS * epochs + 1)]


def names(storage: LocalStorage) -> list[str]:
    return [item.key.removeprefix(f"{FOLDER}/events.out.tfevents.") for item in storage.list(f"{FOLDER}/")]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.mark.parametrize("epochs", [1, 7, 8, 9, 30, 200])
def test_a_run_of_any_length_has_at_most_eight_files(storage: LocalStorage, epochs: int) -> None:
    files = files_of(storage, epochs)
    for epoch in range(1, epochs + 1):
        files.write(epoch, segment(epoch))
    assert len(names(storage)) <= FILES
    assert names(storage)[-1] == f"{epochs:06d}.resnet_dist"
    assert written(storage) == expected(epochs)


def test_files_only_grow_and_new_ones_come_last(storage: LocalStorage) -> None:
    files = files_of(storage, 20)
    before: dict[str, bytes] = {}
    for epoch in range(1, 21):
        files.write(epoch, segment(epoch))
        now = {item.key: storage.get(item.key) or b"" for item in storage.list("")}
        changed = [key for key in now if now[key] != before.get(key)]
        assert changed == [max(now)], "a file that TensorBoard has read to its end was touched"
        assert now[changed[0]].startswith(before.get(changed[0], b""))
        before = now
        assert written(storage) == expected(epoch)


def test_who_has_a_file_open_sees_it_grow(storage: LocalStorage) -> None:
    files = files_of(storage, 16)
    files.write(1, segment(1))
    with (storage.root / FOLDER / "events.out.tfevents.000002.resnet_dist").open("rb") as reader:
        before = reader.read()
        files.write(2, segment(2))
        assert len(reader.read()) > len(before) / 2


def test_a_run_that_goes_on_inside_a_file_adds_to_it(storage: LocalStorage) -> None:
    first = files_of(storage, 24)
    for epoch in range(1, 6):
        first.write(epoch, segment(epoch))
    second = files_of(storage, 24, recorded=5)
    for epoch in range(6, 25):
        second.write(epoch, segment(epoch))
    assert written(storage) == expected(24)


def test_epochs_that_are_run_again_to_the_same_points_leave_the_files_untouched(storage: LocalStorage) -> None:
    first = files_of(storage, 24)
    for epoch in range(1, 9):
        first.write(epoch, segment(epoch))
    before = {item.key: item.version for item in storage.list("")}
    second = files_of(storage, 24, recorded=7)  # the eighth reached its events, and not its metrics line
    for epoch in range(2, 9):
        second.write(epoch, segment(epoch, seconds=2.0))
        assert {item.key: item.version for item in storage.list("")} == before
    second.write(9, segment(9))
    assert written(storage) == expected(9)


def test_epochs_that_are_run_again_to_other_points_replace_all_that_followed(storage: LocalStorage) -> None:
    first = files_of(storage, 24)
    for epoch in range(1, 12):
        first.write(epoch, segment(epoch))
    second = files_of(storage, 24, recorded=11)
    second.write(5, segment(5, offset=0.5))  # on another machine, for example
    assert written(storage) == expected(4) + expected(5, offset=0.5)[12:]
    assert names(storage) == ["000003.resnet_dist", "000006.resnet_dist"]


@pytest.mark.parametrize("missing", [1, 4, 5, len(segment(2)) // 3])
def test_a_torn_end_is_written_again(storage: LocalStorage, missing: int) -> None:
    first = files_of(storage, 24)
    first.write(1, segment(1))
    first.write(2, segment(2))
    (item,) = storage.list("")
    whole = storage.get(item.key) or b""
    storage.put(item.key, whole[:-missing])
    second = files_of(storage, 24, recorded=1)
    second.write(2, segment(2))
    assert written(storage) == expected(2)
    second.write(3, segment(3))
    assert written(storage) == expected(3)


def test_files_of_one_epoch_each_are_taken_over(storage: LocalStorage) -> None:
    for epoch in range(1, 6):
        of_its_own = EventFiles(storage, KEYS, "name", 1)
        of_its_own.write(1, segment(epoch))
        (storage.root / KEYS.event_file("name", "000001.resnet_dist")).rename(
            storage.root / KEYS.event_file("name", f"{STEPS * epoch:010d}.resnet_dist")
        )
    second = files_of(storage, 24, recorded=5)
    assert names(storage) == ["000003.resnet_dist", "000006.resnet_dist"]
    assert written(storage) == expected(5)
    second.write(6, segment(6))
    assert written(storage) == expected(6)
