"""Results as the frames that people have installed."""

import html
import math
import re
import sys
from pathlib import Path

import polars
import pytest

from resnet_dist.errors import UserError
from resnet_dist.storage.interface import TrialKeys
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_metrics, record_result
from tune_jobs import Results, read_results
from tune_jobs.results.html_table import html_table


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two trials, the first of them finished with an error of 12.5 %."""
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", trials[0], 0.125)
    return read_results("two-rows", storage.uri)


def test_a_pandas_frame_has_a_row_a_trial_or_a_row_an_epoch(results: Results) -> None:
    frame = results.to_pandas()
    assert list(frame["network.depth"]) == [20, 32] and list(frame.state) == ["finished", "missing"]
    assert frame.top1_error[0] == 0.125 and math.isnan(frame.top1_error[1])
    assert list(results.to_pandas("epochs").top1_error) == [0.5, 0.125]


def test_a_polars_frame_has_the_same_columns_with_their_types(results: Results) -> None:
    frame = results.to_polars()
    assert frame.columns == list(results.to_pandas().columns)
    assert frame.schema["network.depth"] == polars.Int64 and frame.schema["top1_error"] == polars.Float64
    assert frame["top1_error"].to_list() == [0.125, None]


def test_an_epoch_that_was_not_evaluated_has_no_error_in_a_frame(tmp_path: Path) -> None:
    storage, (trial, _) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    line = b'{"epoch": 1, "step": 391, "train_loss": 2.0, "seconds": 2.0}\n'
    storage.put(TrialKeys("two-rows", trial.trial_id).metrics, line)
    frame = read_results("two-rows", storage.uri).to_polars("epochs")
    assert frame["train_loss"].to_list() == [2.0] and frame["top1_error"].to_list() == [None]


def test_an_experiment_without_an_epoch_is_an_empty_frame(tmp_path: Path) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    assert read_results("two-rows", storage.uri).to_arrow("epochs").num_rows == 0


def test_a_notebook_shows_each_trial_with_its_newest_error_in_per_cent(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('label = "deep"', 'label = "deep <b>"').replace('title = "Two rows"', 'title = "1 < 2"')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=2)
    record_result(storage, "two-rows", trials[0], 0.0)
    record_metrics(storage, "two-rows", trials[1], [0.5, 0.4, 0.3125])
    found = read_results("two-rows", storage.uri)
    shown = found._repr_html_()
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", shown)[1:]]
    assert [row[1:] for row in cells] == [
        ["finished", "2 of 200", "0.00", trials[0].trial_id],
        ["unfinished", "3 of 200", "31.25", trials[1].trial_id],
        ["missing", "0 of 200", "", trials[2].trial_id],
        ["missing", "0 of 200", "", trials[3].trial_id],
    ]
    assert [row[0] for row in cells] == [html.escape(trial.name) for trial in trials] and "1 &lt; 2</b>" in shown
    assert '<td style="text-align:left">a&lt;b&amp;c</td>' in html_table(("name",), [("a<b&c",)])
    plain = found.to_dict()["trials"]
    assert [(one["top1_error"], one["epochs_done"], one["epochs"]) for one in plain] == [
        (0.0, 2, 200),
        (None, 3, 200),
        (None, 0, 200),
        (None, 0, 200),
    ]


def test_a_frame_of_what_is_not_installed_is_one_line(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match=r"^polars is not installed; install it with: pip install polars$"):
        results.to_polars()
