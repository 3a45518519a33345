"""The report's figures."""

import math
import re
from pathlib import Path

import pytest

from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_experiment,
    record_metrics,
    record_result,
)
from tests.tune_jobs.report_reading import NOW, Finished, Page, text_of
from tune_jobs.report.curves import Measure, cell_curve
from tune_jobs.report.figures import draw
from tune_jobs.report.inline_figures import hover_values
from tune_jobs.report.summary import summarise_experiment
from tune_jobs.report.write import write_report
from tune_jobs.results.trials import read_experiment


def test_reports_of_the_same_results_have_the_same_bytes(finished: Finished) -> None:
    storage, _ = finished()

    def written() -> dict[str, bytes | None]:
        write_report(storage, "two-rows", NOW)
        return {item.key: storage.get(item.key) for item in storage.list("two-rows/report/")}

    first = written()
    assert len(first) == 8
    assert written() == first


def test_a_curve_of_trials_that_run_goes_as_far_as_all_of_them_have_come(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    record_metrics(storage, "two-rows", trials[0], [0.5, 0.4, 0.1])
    record_metrics(storage, "two-rows", trials[1], [0.7, 0.5])
    cell, _ = summarise_experiment(read_experiment(storage, "two-rows")).tables[0].cells
    curve = cell_curve(cell, "test-error")
    assert curve is not None and curve.epochs == [1, 2]
    assert [*curve.mean, *curve.low, *curve.high] == pytest.approx([60, 45, 50, 40, 70, 50])


def test_figures_mark_the_drops_of_the_learning_rate(tmp_path: Path) -> None:
    experiment = experiment_from(TWO_ROWS, tmp_path, epochs=5)
    storage, trials = record_experiment(tmp_path, experiment, seeds=1)
    for trial in trials:
        record_metrics(storage, "two-rows", trial, [0.5, 0.4, 0.3, 0.2, 0.1])
    write_report(storage, "two-rows", NOW)
    svg = text_of(storage, "figures/depths-train-loss.svg")
    assert experiment.tables[0].cells[0].config.schedule.milestones == (2, 3)
    assert svg.count("stroke-dasharray") == 2
    png = storage.get("two-rows/report/figures/depths-train-loss.png")
    assert png is not None
    assert png.startswith(b"\x89PNG")


def test_each_seed_is_a_thin_line_below_its_rows_mean(finished: Finished) -> None:
    storage, trials = finished()
    write_report(storage, "two-rows", NOW)
    assert text_of(storage, "figures/depths-test-error.svg").count("stroke-opacity: 0.45; stroke-width: 0.5") == len(
        trials
    )


def test_no_seeds_line_leaves_the_figure_of_the_errors(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    for trial, error in zip(trials, (0.1, 0.7, 0.1, 0.1), strict=True):
        record_result(storage, "two-rows", trial, error)
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    drawing = draw(table, "test-error")
    assert drawing is not None
    (panel,) = drawing.panels
    (highest, *_) = (drawn.y.offset + drawn.y.factor * max(drawn.curve.high) for drawn in panel.curves)
    assert highest > panel.box[1], "70 % is below the upper edge"


def test_many_rows_are_reported_with_the_best_drawn(tmp_path: Path) -> None:
    levels = ", ".join(f"{0.001 * i:.3f}" for i in range(1, 121))
    text = f'name = "two-rows"\n[[table]]\nname = "t"\n[table.grid]\n"solver.learning_rate" = [{levels}]\n'
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=1)
    for index, trial in enumerate(trials):
        record_result(storage, "two-rows", trial, (index + 1) / 200)
    write_report(storage, "two-rows", NOW)
    page = text_of(storage, "report.html")
    Page(page)
    assert "range of all 120 rows" in page
    svg = text_of(storage, "figures/t-test-error.svg")
    assert [f"learning rate {0.001 * i:g}<" in svg for i in (1, 5, 6, 120)] == [True, True, False, False]


@pytest.mark.parametrize("measure", ["train-loss", "test-error"])
def test_values_shown_on_a_page_lie_on_the_lines_that_are_drawn(measure: Measure, finished: Finished) -> None:
    storage, _ = finished()
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    drawing = draw(table, measure)
    assert drawing is not None
    (panel,) = hover_values(drawing)["panels"]
    lines = re.findall(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n"', drawing.svg)
    drawn = [[float(number) for number in line] for line in lines]
    for curve in panel["curves"]:
        kind, offset, factor = curve["y"]
        points = [
            (panel["x"][0] + panel["x"][1] * epoch, offset + factor * (math.log10(value) if kind == "log" else value))
            for epoch, value in zip((1, 2), curve["mean"], strict=True)
        ]
        expected = [coordinate for point in points for coordinate in point]
        assert any(line == pytest.approx(expected, abs=0.1) for line in drawn), (expected, drawn)
    assert (kind, panel["curves"][0]["seeds"]) == ("log" if measure == "train-loss" else "linear", 3)
