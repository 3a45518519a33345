"""A report of 3,600 trials: the full grid with five seeds, put together in memory."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.tune_jobs.report_reading import Page, rows_of
from tune_jobs.grid.experiment import experiment_record, load_experiment
from tune_jobs.report.csv_files import cells_csv, trials_csv
from tune_jobs.report.html_page import html_page
from tune_jobs.report.links import RecordLinks
from tune_jobs.report.markdown import markdown
from tune_jobs.report.summary import ReportSummary, summarise_experiment
from tune_jobs.results.trials import ExperimentResults, TrialResults

WHERE = RecordLinks("/results", "full-grid")


def _finished(trial_id: str, asked: Mapping[str, Any]) -> TrialResults:
    error = 0.05 + int(trial_id[:4], 16) / 0xFFFF / 10
    result = {"top1_error": error, "best_top1_error": error, "seconds": 4000.0, "steps": 78125, "workers": 1}
    provenance = {"commit": "1f" * 20, "data_fingerprint": "ab" * 16, "device": "cpu", "torch": "2.14.1", "workers": 1}
    return TrialResults(trial_id, asked["name"], asked["config"], "finished", result, provenance=provenance)


@pytest.fixture(scope="module")
def summary() -> ReportSummary:
    record = json.loads(json.dumps(experiment_record(load_experiment("full-grid"), seeds=5)))
    trials = {trial_id: _finished(trial_id, asked) for trial_id, asked in record["trials"].items()}
    return summarise_experiment(ExperimentResults("/results", record, trials))


def test_the_page_of_3600_trials_is_whole_and_below_five_megabytes(summary: ReportSummary) -> None:
    assert len(summary.results.trials) == 3600
    page = html_page(summary, WHERE, None, {"full-grid": []}, "now")
    assert len(page.encode()) < 5_000_000
    found = Page(page)
    assert found.tags.count("tr") > 720 + 3600
    identifiers = set(found.values("id"))
    assert {f"trial-{trial_id}" for trial_id in summary.results.trials} <= identifiers
    assert found.tags.count("details") == 1
    assert "open" not in dict(found.attributes)


def test_tables_of_3600_trials_have_a_line_for_each(summary: ReportSummary) -> None:
    assert len(list(csv.DictReader(io.StringIO(trials_csv(summary))))) == 3600
    assert len(list(csv.DictReader(io.StringIO(cells_csv(summary))))) == 720
    rows = rows_of(markdown(summary, WHERE, [], {}, "now"))
    assert sum(row[0].startswith('<a id="trial-') for row in rows) == 3600
