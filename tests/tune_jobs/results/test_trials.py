import json
from dataclasses import replace
from pathlib import Path

import pytest

from resnet_dist.errors import StorageError, UserError
from resnet_dist.storage.interface import TrialKeys, experiment_key
from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_experiment,
    record_failure,
    record_metrics,
    record_result,
)
from tune_jobs.report.summary import summarise_experiment
from tune_jobs.results.trials import read_experiment


def test_every_state_is_told_apart(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    record_result(storage, "two-rows", trials[0], 0.1)
    record_failure(storage, "two-rows", trials[1], "training diverged\nat step 12")
    record_metrics(storage, "two-rows", trials[2], [0.5, 0.4, 0.3])
    storage.put(TrialKeys("two-rows", trials[3].trial_id).checkpoints + "step-1/model.pt", b"x")
    storage.put(TrialKeys("two-rows", trials[4].trial_id).result, b'{"layout": 1, "tri')
    results = read_experiment(storage, "two-rows")
    assert list(results.trials) == [trial.trial_id for trial in trials]
    states = [trial.state for trial in results.trials.values()]
    assert states == ["finished", "failed", "unfinished", "unfinished", "corrupt", "missing"]
    finished, failed, begun, _, corrupt, _ = results.trials.values()
    assert (finished.result["top1_error"], finished.epochs_done, finished.provenance["dirty"]) == (0.1, 2, False)
    assert failed.reason == "training diverged at step 12"
    assert (begun.epochs_done, begun.epochs, begun.seed) == (3, 200, 2)
    assert corrupt.reason.startswith("result.json is corrupt: ")
    assert {state: results.count(state) for state in ("unfinished", "missing")} == {"unfinished": 2, "missing": 1}


def test_trials_of_every_id_are_found_where_they_are_listed_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first digit of their ids, as many trials are."""
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    ids = tuple(digit * 16 for digit in "0123456789abcdef")
    for trial_id in ids:
        storage.put(TrialKeys("two-rows", trial_id).config, b"{}")
    monkeypatch.setattr("tune_jobs.results.trials._MANY_TRIALS", 1)
    assert read_experiment(storage, "two-rows").unlisted == ids


def test_a_result_outweighs_an_earlier_failure(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_failure(storage, "two-rows", trials[0], "out of memory")
    record_result(storage, "two-rows", trials[0], 0.1)
    assert read_experiment(storage, "two-rows").trials[trials[0].trial_id].state == "finished"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trial": "0" * 16}, "it belongs to trial 0000000000000000"),
        ({"top1_error": 8.29}, "top1_error 8.29 is not a fraction"),
        ({"top1_error": None}, "result.json is corrupt"),
        ({"layout": 2}, "storage layout 2"),
    ],
)
def test_an_impossible_result_is_corrupt(change: dict[str, object], reason: str, tmp_path: Path) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", trial, 0.1)
    key = TrialKeys("two-rows", trial.trial_id).result
    stored = storage.get(key)
    assert stored is not None
    storage.put(key, json.dumps(json.loads(stored) | change).encode())
    found = read_experiment(storage, "two-rows").trials[trial.trial_id]
    assert found.state == "corrupt"
    assert reason in found.reason


@pytest.mark.parametrize("errors", [[], [0.5]])
def test_an_earlier_versions_result_without_all_its_epochs_is_corrupt(tmp_path: Path, errors: list[float]) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", trial, 0.1, complete=False)
    record_metrics(storage, "two-rows", trial, errors)
    found = read_experiment(storage, "two-rows").trials[trial.trial_id]
    assert found.state == "corrupt"
    assert found.reason.startswith(f"metrics.jsonl has {len(errors)} lines, and result.json speaks of 2 epochs; delete")


def test_a_result_of_an_earlier_version_is_read_with_the_files_around_it(tmp_path: Path) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", trial, 0.1, complete=False)
    before = read_experiment(storage, "two-rows").trials[trial.trial_id]
    record_result(storage, "two-rows", trial, 0.1)
    assert read_experiment(storage, "two-rows").trials[trial.trial_id] == before
    assert before.state == "finished" and len(before.metrics) == 2 and before.provenance["commit"]


@pytest.mark.parametrize("lost", ["metrics.jsonl", "provenance.json", "model.pt"])
@pytest.mark.parametrize("data", [None, b"older"])
def test_a_result_tells_all_by_itself_and_names_a_file_that_is_another_one(
    tmp_path: Path, lost: str, data: bytes | None
) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", trial, 0.1)
    before = read_experiment(storage, "two-rows").trials[trial.trial_id]
    key = TrialKeys("two-rows", trial.trial_id).prefix + lost
    storage.delete(key)
    if data is not None:
        storage.put(key, data)
    results = read_experiment(storage, "two-rows")
    found = results.trials[trial.trial_id]
    assert found.reason == f"{lost} is {'missing' if data is None else 'not the file of its result'}"
    assert replace(found, reason="") == before and before.reason == ""
    notices = summarise_experiment(results).notices
    assert any(note.startswith(f"{trial.trial_id}: {found.reason}; its numbers") for note in notices)


@pytest.mark.parametrize("lines", [[], [{"epoch": 1}], [{"epoch": 2}, {"epoch": 1}], [1, 2], None])
def test_a_result_whose_own_lines_are_not_its_epochs_is_corrupt(tmp_path: Path, lines: object) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", trial, 0.1, result={"metrics": lines})
    found = read_experiment(storage, "two-rows").trials[trial.trial_id]
    assert (found.state, found.reason[:22]) == ("corrupt", "result.json is corrupt")


def test_metrics_out_of_order_are_corrupt(tmp_path: Path) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    storage.put(TrialKeys("two-rows", trial.trial_id).metrics, b'{"epoch": 2}\n{"epoch": 1}\n')
    found = read_experiment(storage, "two-rows").trials[trial.trial_id]
    assert (found.state, found.reason) == ("corrupt", "metrics.jsonl is corrupt: its epochs are not in order")


def test_metrics_of_finished_trials_can_be_left_out(tmp_path: Path) -> None:
    storage, (first, second) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", first, 0.1)
    record_metrics(storage, "two-rows", second, [0.5])
    results = read_experiment(storage, "two-rows", details=False)
    assert results.trials[first.trial_id].metrics == ()
    assert results.trials[first.trial_id].epochs_done == 2
    assert results.trials[second.trial_id].epochs_done == 1


def test_trials_of_an_earlier_launch_are_counted_apart(tmp_path: Path) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    storage.put(TrialKeys("two-rows", "0123456789abcdef").config, b"{}")
    storage.put("two-rows/trials/.DS_Store", b"of another program")
    storage.put("two-rows/trials/notes/of-mine.txt", b"")
    results = read_experiment(storage, "two-rows")
    assert results.unlisted == ("0123456789abcdef",)
    assert len(results.trials) == 2


def test_an_experiment_that_was_never_launched_is_named(tmp_path: Path) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    with pytest.raises(
        UserError, match=r"other: no such experiment in .*; start one with: resnet-dist grid run EXPERIMENT"
    ):
        read_experiment(storage, "other")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not a readable experiment record"),
        (b"[]", "is not a readable experiment record"),
        (b"[" * 100_000, "is not a readable experiment record"),
        (b'{"layout": 1, "tables": [{}]}', "is not a readable experiment record"),
        (b'{"layout": 9}', "has storage layout 9; this version reads layout 1"),
    ],
)
def test_an_unusable_experiment_record_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    storage.put(experiment_key("two-rows"), data)
    with pytest.raises(StorageError, match=f"two-rows/experiment.json: {message}"):
        read_experiment(storage, "two-rows")


@pytest.mark.parametrize("record", ["result.json", "provenance.json", "metrics.jsonl", "failure.json"])
def test_a_record_that_is_nested_too_deeply_is_corrupt(record: str, tmp_path: Path) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    storage.put(TrialKeys("two-rows", trial.trial_id).prefix + record, b"[" * 100_000)
    found = read_experiment(storage, "two-rows").trials[trial.trial_id]
    assert found.state == "corrupt" and found.reason.startswith(f"{record} is corrupt: ")
