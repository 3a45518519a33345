"""`experiment.json` of runs that are started one by one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.storage.interface import TrialKeys, experiment_key
from tune_jobs.results.experiment_record import read_record, record_single_run, with_earlier_plans
from tune_jobs.results.trials import read_experiment


def run(seed: int) -> TrainingConfig:
    config = TrainingConfig()
    return replace(config, run=replace(config.run, seed=seed))


def begin(storage: LocalStorage, config: TrainingConfig) -> None:
    """Write what a run writes when it begins."""
    told = {"layout": 1, "trial": config.trial_id(), "name": f"run {config.run.seed}", "config": config.to_dict()}
    storage.put(TrialKeys("runs", config.trial_id()).config, json.dumps(told).encode())


def test_runs_are_listed_in_the_order_in_which_they_were_started(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for seed in (5, 3, 4, 3):
        record_single_run(storage, "runs", run(seed), f"run {seed}")
    record = read_record(storage, "runs")
    assert [cell["label"] for cell in record["tables"][0]["cells"]] == [f"run {n}, seed {n}" for n in (5, 3, 4)]
    assert list(record["trials"]) == [run(seed).trial_id() for seed in (5, 3, 4)]


def test_a_run_whose_entry_was_overwritten_by_one_that_began_at_the_same_time_is_listed(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    record_single_run(storage, "runs", run(0), "run 0")
    before = storage.get(experiment_key("runs"))
    assert before
    record_single_run(storage, "runs", run(1), "run 1")
    begin(storage, run(1))
    storage.put(experiment_key("runs"), before)  # by a launch that had read it before run 1 began
    assert list(read_experiment(storage, "runs").trials) == [run(0).trial_id(), run(1).trial_id()]
    record_single_run(storage, "runs", run(2), "run 2")
    stored = json.loads(storage.get(experiment_key("runs")) or b"")
    assert [trial["name"] for trial in stored["trials"].values()] == ["run 0", "run 1", "run 2"]


@pytest.mark.parametrize(
    "config", [b"half a reco", b"[]", b'{"layout": 2}', b'{"layout": 1, "name": "x", "config": {}}']
)
def test_a_folder_without_a_usable_configuration_is_no_run(tmp_path: Path, config: bytes) -> None:
    storage = LocalStorage(tmp_path)
    record_single_run(storage, "runs", run(0), "run 0")
    storage.put(TrialKeys("runs", run(1).trial_id()).config, config)
    assert list(read_record(storage, "runs")["trials"]) == [run(0).trial_id()]


def test_a_grid_is_not_added_to(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    record_single_run(storage, "runs", run(0), "run 0")
    record = json.loads(storage.get(experiment_key("runs")) or b"")
    del record["single_runs"]
    storage.put(experiment_key("runs"), json.dumps(record).encode())
    begin(storage, run(1))
    assert list(read_record(storage, "runs")["trials"]) == [run(0).trial_id()], "what a grid did not ask for is not its"
    with pytest.raises(UserError, match="holds a grid of that name"):
        record_single_run(storage, "runs", run(1), "run 1")


def test_seeds_that_were_added_or_taken_away_are_remembered_with_the_plans_before(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    kept: list[object] = []
    for planned in (3, 5, 5, 10, 5):
        record = with_earlier_plans(storage, {"experiment": "grid", "planned_seeds": planned})
        storage.put(experiment_key("grid"), json.dumps(record).encode())
        kept.append(record.get("earlier_plans"))
    assert kept == [None, [3], [3], [3, 5], [3, 10]]


@pytest.mark.parametrize("data", [b"", b"not json", b"[1]", b"{}"])
def test_a_record_without_a_plan_adds_none(data: bytes, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put(experiment_key("grid"), data)
    record = {"experiment": "grid", "planned_seeds": 5}
    assert with_earlier_plans(storage, record) == record
