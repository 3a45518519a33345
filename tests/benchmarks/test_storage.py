"""The benchmark of storage: its trials are what a grid leaves, and its targets are judged the right way round."""

from pathlib import Path

import pytest

from benchmarks import storage
from benchmarks.finished_trials import write_finished_trials
from benchmarks.storage import Nowhere
from benchmarks.targets import Target
from cluster.storage.local import LocalStorage
from resnet_dist.launch import Job, run_in_process
from tests.small_runs import small_config
from tune_jobs.results.trials import read_experiment


def test_its_finished_trials_are_read_as_those_of_a_grid(tmp_path: Path) -> None:
    count = write_finished_trials(LocalStorage(tmp_path), seeds=2, name="demo")
    results = read_experiment(LocalStorage(tmp_path), "demo")
    assert count == len(results.trials) == results.count("finished")
    assert all(len(trial.metrics) == trial.epochs for trial in results.trials.values())
    assert all(trial.provenance["data_fingerprint"] for trial in results.trials.values())


def test_a_run_whose_records_go_nowhere_is_trained_all_the_same() -> None:
    limits = {"data__train_limit": 56, "data__test_limit": 10}
    config = small_config(run__epochs=1, run__precision="float32", run__device="cpu", schedule__milestones=[], **limits)
    assert run_in_process(Job(config, "training", "seed-0", Nowhere))["epochs"] == 1


def test_a_ratio_of_times_is_reached_by_what_takes_no_longer() -> None:
    assert Target("", 1.1, "× time", 1.05).state == "ok"
    assert Target("", 1.1, "× time", 1.15).state == "short"
    assert "target at most 1.10 × time" in Target("", 1.1, "× time", 1.05).line()


def test_a_part_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        storage.main(["uplaod"])
    assert ended.value.code == 2
    assert "PART uplaod: it may be training, upload, report" in capsys.readouterr().err
