"""What a trial's records do when an experiment was edited or a record was damaged between two attempts."""

import json
from pathlib import Path

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.errors import StorageError
from resnet_dist.records import checkpoints
from resnet_dist.records.git_state import SourceState
from resnet_dist.records.recorder import Recorder
from resnet_dist.workers import alone
from tests.small_runs import small_config

LINE = {"epoch": 1, "step": 4, "learning_rate": 0.1, "train_loss": 2.0, "top1_error": 0.5}


def started(storage: LocalStorage, name: str, seed: int = 0) -> Recorder:
    recorder = Recorder(storage, "experiment", name, small_config(run__seed=seed))
    recorder.start(alone("cpu"), "fingerprint")
    return recorder


def event_folders(storage: LocalStorage) -> list[str]:
    return sorted(item.key.split("/")[2] for item in storage.list("experiment/tb/"))


def test_a_trial_that_is_renamed_goes_on_under_its_first_name(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    started(storage, "first").epoch(LINE, [2.0] * 4, [0.1] * 4)
    started(storage, "renamed").epoch(LINE | {"epoch": 2, "step": 8}, [2.0] * 4, [0.1] * 4)
    assert event_folders(storage) == ["first", "first"]


def test_a_trial_takes_no_name_whose_curves_are_anothers(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    first = started(storage, "name")
    first.epoch(LINE, [2.0] * 4, [0.1] * 4)
    key = first.keys.event_file("name", "000001.resnet_dist")
    before = storage.get(key)
    other = started(storage, "name", seed=1)
    other.epoch(LINE, [3.0] * 4, [0.1] * 4)
    started(storage, "name", seed=1).epoch(LINE | {"epoch": 2, "step": 8}, [3.0] * 4, [0.1] * 4)
    unlike = f"name-{other.trial_id[:8]}"
    assert event_folders(storage) == ["name", unlike, unlike]
    assert storage.get(key) == before


@pytest.mark.parametrize(("step", "lines"), [(4, [LINE]), (3, [])])
def test_a_checkpoint_has_the_lines_of_the_epochs_up_to_its_step(
    step: int, lines: list[dict[str, float]], tmp_path: Path
) -> None:
    recorder = started(LocalStorage(tmp_path), "name")
    recorder.epoch(LINE, [2.0] * 4, [0.1] * 4)
    recorder.checkpoint(step, checkpoints.encode({"step": step}))
    newest = recorder.checkpoints.latest()
    assert newest is not None and newest.metrics == lines


def test_a_trial_that_goes_on_was_started_when_its_first_attempt_was_and_stays_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, times = LocalStorage(tmp_path), iter(["one", "two", "three", "four"])
    monkeypatch.setattr("resnet_dist.records.provenance.now", lambda: next(times))
    for dirty in (True, False):
        source = SourceState("1f" * 20, dirty, "git", b"", ())
        for module in ("provenance", "recorder"):
            monkeypatch.setattr(f"resnet_dist.records.{module}.running_source", lambda source=source: source)
        told = started(storage, "name").provenance
    assert [attempt["dirty"] for attempt in told["attempts"]] == [True, False]
    assert told["dirty"] is True
    assert told["started"] in ("one", "two") and told["attempts"][1]["started"] in ("three", "four")


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff"])
@pytest.mark.parametrize("record", ["result.json", "provenance.json", "config.json", "metrics.jsonl"])
def test_a_corrupt_record_is_named_in_one_line(record: str, data: bytes, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    recorder = Recorder(storage, "experiment", "name", small_config())
    storage.put(recorder.keys.prefix + record, data)
    with pytest.raises(StorageError, match=f"{record} is corrupt; delete this folder") as error:
        recorder.result()
        recorder.start(alone("cpu"), "fingerprint")
    assert "\n" not in str(error.value)
    assert storage.get(recorder.keys.prefix + record) == data, "what the user may want to look at is left"


def test_the_result_of_another_trial_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    recorder = Recorder(storage, "experiment", "name", small_config())
    storage.put(recorder.keys.result, json.dumps({"layout": 1, "trial": "0" * 16, "top1_error": 0.1}).encode())
    with pytest.raises(StorageError, match=r"result\.json is corrupt"):
        recorder.result()


def test_a_trial_that_is_tried_again_has_not_failed(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    first = started(storage, "trial")
    first.fail("error", "a disk was full")
    assert storage.get(first.keys.failure) is not None
    started(storage, "trial")
    assert storage.get(first.keys.failure) is None
