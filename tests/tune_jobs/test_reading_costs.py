"""What reading an experiment from S3 asks of the store, counted."""

import json
from collections import Counter
from pathlib import Path

import pytest

from cluster.storage.opening import open_storage
from cluster.storage.s3 import S3Storage
from resnet_dist.storage.interface import Storage, TrialKeys, experiment_key
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_metrics, record_result
from tune_jobs.grid.experiment import Trial, experiment_record, trials
from tune_jobs.results import trials as results
from tune_jobs.results.trials import read_experiment

SEEDS = 6


@pytest.fixture
def storage(bucket: str) -> Storage:
    return open_storage(f"s3://{bucket}/results")


@pytest.fixture
def recorded(storage: Storage, tmp_path: Path) -> list[Trial]:
    """Twelve trials: ten finished, one unfinished, one missing."""
    experiment = experiment_from(TWO_ROWS, tmp_path)
    storage.put(experiment_key("two-rows"), json.dumps(experiment_record(experiment, SEEDS)).encode())
    expanded = list(trials(experiment, SEEDS))
    for trial in expanded[:10]:
        record_result(storage, "two-rows", trial, 0.1)
    record_metrics(storage, "two-rows", expanded[10], [0.5])
    return expanded


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many requests of each kind have been sent since it was last cleared."""
    counts: Counter[str] = Counter()
    send = S3Storage._try

    def counting(self: S3Storage, action: str, *arguments: object) -> object:
        counts[action] += 1
        return send(self, action, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(S3Storage, "_try", counting)
    return counts


@pytest.mark.parametrize("details", [True, False])
def test_a_finished_trial_takes_one_request(
    storage: Storage, recorded: list[Trial], asked: Counter[str], details: bool
) -> None:
    read_experiment(storage, "two-rows", details)
    assert asked == {"list": 1, "read": 1 + 10 + 1}, "experiment.json, ten results, the metrics of the other"


def test_nothing_stale_is_shown(storage: Storage, recorded: list[Trial]) -> None:
    read_experiment(storage, "two-rows")
    record_metrics(storage, "two-rows", recorded[10], [0.5, 0.4])
    record_result(storage, "two-rows", recorded[0], 0.2)
    for item in storage.list(TrialKeys("two-rows", recorded[1].trial_id).prefix):
        storage.delete(item.key)
    found = list(read_experiment(storage, "two-rows").trials.values())
    assert found[0].result["top1_error"] == 0.2
    assert found[0].metrics[-1]["top1_error"] == 0.2
    assert found[1].state == "missing"
    assert found[10].epochs_done == 2


def test_trials_of_a_large_experiment_are_listed_side_by_side(
    storage: Storage, recorded: list[Trial], asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("two-rows/trials/0123456789abcdef/config.json", b"{}")
    at_once = read_experiment(storage, "two-rows")
    asked.clear()
    monkeypatch.setattr(results, "_MANY_TRIALS", 11)
    assert read_experiment(storage, "two-rows") == at_once
    assert asked["list"] == 16
    assert at_once.unlisted == ("0123456789abcdef",)
