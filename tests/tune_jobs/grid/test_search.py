"""A search (`--scheduler asha`) makes no table: its survivors were chosen by their errors."""

import json
from pathlib import Path

import pytest

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.records.recorder import record_failure
from resnet_dist.storage.interface import TrialKeys, experiment_key
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_result
from tune_jobs.grid.experiment import Trial, experiment_record, trials
from tune_jobs.grid.plan import make_plan
from tune_jobs.report.summary import summarise_experiment
from tune_jobs.results.trials import read_experiment

REASON = "stopped by asha after epoch 4 of 200, at a test error of 50.00 %"


@pytest.fixture
def storage(tmp_path: Path) -> BrowsableStorage:
    return open_storage(str(tmp_path / "storage"))


def launched(storage: BrowsableStorage, folder: Path, scheduler: str) -> tuple[Trial, ...]:
    """The record of a launch in storage, and the experiment's trials."""
    experiment = experiment_from(TWO_ROWS, folder)
    record = experiment_record(experiment, 2, {}, scheduler)
    storage.put(experiment_key(experiment.name), json.dumps(record).encode())
    return trials(experiment, 2)


def stop(storage: BrowsableStorage, trial: Trial) -> None:
    record_failure(storage, TrialKeys("two-rows", trial.trial_id), "early-stopped", REASON, 1)


def test_survivors_of_a_search_stay_out_of_the_tables(storage: BrowsableStorage, tmp_path: Path) -> None:
    first, second, third, fourth = launched(storage, tmp_path, "asha")
    for trial in (first, second, third):
        record_result(storage, "two-rows", trial, 0.1)
    stop(storage, fourth)
    summary = summarise_experiment(read_experiment(storage, "two-rows"))
    assert any(notice.startswith("A search, not a table") for notice in summary.notices)
    cells = summary.tables[0].cells
    assert [cell.ours for cell in cells] == [None, None]
    assert all(cell.document is None and cell.against is None for cell in cells)
    assert any("kept out of the table" in said for said in cells[0].unfinished)


def test_once_every_trial_has_run_to_its_end_nothing_was_chosen(storage: BrowsableStorage, tmp_path: Path) -> None:
    for trial in launched(storage, tmp_path, "asha"):
        record_result(storage, "two-rows", trial, 0.1)
    summary = summarise_experiment(read_experiment(storage, "two-rows"))
    assert all(cell.ours and cell.ours.n == 2 for cell in summary.tables[0].cells)


def test_a_later_launch_with_fifo_takes_the_stopped_up_and_may_be_reported(
    storage: BrowsableStorage, tmp_path: Path
) -> None:
    first, second, stopped, missing = launched(storage, tmp_path, "asha")
    for trial in (first, second):
        record_result(storage, "two-rows", trial, 0.1)
    stop(storage, stopped)
    plan = make_plan(str(tmp_path / "experiment.toml"), storage, 2, None, {})
    both = {stopped.trial_id, missing.trial_id}
    assert {trial.trial_id for trial in plan.to_run(scheduler="asha")} == {missing.trial_id}
    assert {trial.trial_id for trial in plan.to_run(retry_failed=True, scheduler="asha")} == both
    assert {trial.trial_id for trial in plan.to_run()} == both
    launched(storage, tmp_path, "fifo")
    shallow, deep = summarise_experiment(read_experiment(storage, "two-rows")).tables[0].cells
    assert shallow.ours is not None and shallow.ours.n == 2
    assert deep.ours is None  # until what was stopped has run to its end


def test_a_stopped_trial_never_looks_finished(storage: BrowsableStorage, tmp_path: Path) -> None:
    trial, *_ = launched(storage, tmp_path, "asha")
    stop(storage, trial)
    results = read_experiment(storage, "two-rows").trials[trial.trial_id]
    assert (results.state, results.counts, results.reason) == ("early-stopped", False, REASON)
