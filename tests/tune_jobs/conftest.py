from pathlib import Path

import pytest

from resnet_dist.storage.interface import Storage
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_result
from tests.tune_jobs.report_reading import ERRORS, Finished
from tune_jobs.grid.experiment import Trial


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written without figures, which take most of the time."""
    monkeypatch.setattr("tune_jobs.report.write.draw", lambda table, measure: None)
    monkeypatch.setattr("tune_jobs.report.write.draw_overview", lambda tables: None)


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """Records the two-row experiment with `ERRORS` and returns its storage and trials."""

    def make(seeds: int = 3, text: str = TWO_ROWS, **settings: object) -> tuple[Storage, tuple[Trial, ...]]:
        storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path, **settings), seeds)
        for trial in trials:
            row = trials.index(trial) // seeds
            record_result(storage, "two-rows", trial, ERRORS[3 * row + trial.config.run.seed])
        return storage, trials

    return make
