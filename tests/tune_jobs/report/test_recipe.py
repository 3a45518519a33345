"""A report says what was trained, on how many images, and in what its rows differ; a terminal has the verdicts."""

import json
from pathlib import Path

import pytest

from resnet_dist.storage.interface import experiment_key
from tests.tune_jobs.recorded import experiment_from, record_experiment, record_result
from tests.tune_jobs.report_reading import NOW, Finished, shown, text_of
from tune_jobs.report.recipe import recipe
from tune_jobs.report.write import write_report
from tune_jobs.results.trials import read_experiment

pytestmark = pytest.mark.usefixtures("without_figures")

OWN = """
name = "own"
title = "Own"
[recipe]
network = { width = 8 }
data = { source = "cifar10", batch_size = 64, flip = false }
schedule = { milestones = [3, 5] }
run = { epochs = 6 }
[[table]]
name = "rates"
title = "Rates"
[[table.cell]]
label = "low"
set = { "solver.learning_rate" = 0.01 }
[[table.cell]]
label = "high"
[[table]]
name = "depths"
title = "Depths"
[[table.cell]]
label = "deep"
set = { "network.depth" = 32 }
"""


@pytest.mark.parametrize("file", ["report.md", "report.html"])
def test_a_report_says_the_recipe_and_the_settings_of_its_rows(tmp_path: Path, file: str) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(OWN, tmp_path), seeds=1)
    images = {"train": 45000, "validation": 5000, "test": 10000, "classes": 10}
    for trial in trials:
        record_result(storage, "own", trial, 0.1, {"images": images})
    write_report(storage, "own", NOW)
    text = text_of(storage, file, "own").replace("\\_", "_")
    assert (
        "Data: cifar10, 45,000 to train, 5,000 to validate and 10,000 to test, of 10 classes: images of 32×32 pixels; "
        "sampling: replacement, shifts up to 4 pixels, flips: no, 64 a batch. Network: 8 channels in the first group. "
        "Training: 6 epochs, float32, sgd, weight decay 0.0001, rate × 0.1 at epochs 3, 5."
    ) in text
    assert (
        "Settings: All rows: network.depth = 20; low: solver.learning_rate = 0.01; high: solver.learning_rate = 0.1."
        in text
    )
    assert "Settings: All rows: network.depth = 32, solver.learning_rate = 0.1." in text


def test_drops_are_said_where_some_rows_have_another_schedule(tmp_path: Path) -> None:
    mixed = OWN + '[[table.cell]]\nlabel = "steady"\nset = { "schedule.kind" = "constant" }\n'
    storage, trials = record_experiment(tmp_path, experiment_from(mixed, tmp_path), seeds=1)
    for trial in trials:
        record_result(storage, "own", trial, 0.1)
    write_report(storage, "own", NOW)
    text = text_of(storage, "report.md", "own")
    assert "rate × 0.1 at epochs 3, 5 (in rows whose schedule is step)." in text


def test_settings_that_an_earlier_version_did_not_know_have_their_defaults_and_crops_are_no_shifts(
    tmp_path: Path,
) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(OWN, tmp_path), seeds=1)
    for trial in trials:
        record_result(storage, "own", trial, 0.1)
    record = json.loads(storage.get(experiment_key("own")) or b"")
    for trial in record["trials"].values():
        del trial["config"]["data"]["sampling"]
        trial["config"]["data"]["augmentation"] = "paper"
    storage.put(experiment_key("own"), json.dumps(record).encode())
    said = recipe(read_experiment(storage, "own"))
    assert "pixels; sampling: replacement, crops: paper, flips: no, 64 a batch." in said


def test_a_terminals_table_has_the_verdicts_against_baseline_and_document(finished: Finished) -> None:
    storage, _ = finished()
    lines = shown(write_report(storage, "two-rows", NOW)).splitlines()
    deep = next(line for line in lines if line.split()[:1] == ["deep"])
    assert deep.count("differs") == 2 and "−4.00 differs" in deep


def test_one_epoch_and_one_drop_are_singular(tmp_path: Path) -> None:
    text = OWN.replace("epochs = 6", "epochs = 1").replace("[3, 5]", "[3]")
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=1)
    for trial in trials:
        record_result(storage, "own", trial, 0.1)
    write_report(storage, "own", NOW)
    said = text_of(storage, "report.md", "own")
    assert "Training: 1 epoch, float32" in said and "rate × 0.1 at epoch 3." in said
