"""The tidy table: which columns there are, of which type, and that each number is the recorded one."""

from collections.abc import Mapping
from typing import Any

from resnet_dist.configuration.training import TrainingConfig
from tune_jobs.results.tidy_table import ResultTable, Rows
from tune_jobs.results.trials import TrialResults

BEFORE = {"trial": "text", "name": "text", "cells": "text", "state": "text", "seed": "integer"}
OF_TRIALS = BEFORE | {
    "epochs_done": "integer",
    "epochs": "integer",
    "steps": "integer",
    "top1_error": "number",
    "top5_error": "number",
    "test_loss": "number",
    "train_loss": "number",
    "validation_error": "number",
    "seconds": "number",
    "images_per_second": "number",
    "workers": "integer",
    "device": "text",
    "parameters": "integer",
    "energy_joules": "number",
    "test_images": "integer",
    "best_top1_error": "number",
    "attempts": "integer",
    "storage_requests": "integer",
    "storage_bytes": "integer",
    "data_requests": "integer",
    "data_bytes": "integer",
    "data_retries": "integer",
    "scheduler": "text",
    "commit": "text",
    "dirty": "boolean",
    "data_fingerprint": "text",
    "python": "text",
    "torch": "text",
    "host": "text",
    "started": "text",
    "finished": "text",
    "reason": "text",
}
OF_EPOCHS = BEFORE | {
    "epoch": "integer",
    "step": "integer",
    "learning_rate": "number",
    "train_loss": "number",
    "test_loss": "number",
    "top1_error": "number",
    "top5_error": "number",
    "validation_error": "number",
    "seconds": "number",
    "images_per_second": "number",
    "energy_joules": "number",
}


def record_of(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's record with a trial of each of these settings, which are given as `section.field`."""
    trials = {
        f"{number:016x}": {"name": f"trial {number}", "config": TrainingConfig().override(dict(given)).to_dict()}
        for number, given in enumerate(settings)
    }
    return {"tables": [], "trials": trials}


def table(
    record: Mapping[str, Any], rows: Rows = "trials", **about: Any
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Kinds of the columns by name, and the rows of finished trials of which storage holds this."""
    made = ResultTable(record, rows)
    found = (
        TrialResults(trial_id, trial["name"], trial["config"], "finished", **about)
        for trial_id, trial in record["trials"].items()
    )
    names = [column.name for column in made.columns]
    return {column.name: column.kind for column in made.columns}, [
        dict(zip(names, row, strict=True)) for row in made.rows(found)
    ]


def test_the_columns_are_those_that_other_tools_rely_on() -> None:
    assert list(table(record_of({}))[0].items()) == list(OF_TRIALS.items())
    assert list(table(record_of({}), "epochs")[0].items()) == list(OF_EPOCHS.items())


def test_a_zero_is_a_value_and_what_is_not_finite_is_none() -> None:
    result: dict[str, Any] = {
        "top1_error": 0.0,
        "top5_error": 0.1234567890123,
        "attempts": 1,
        "data_retries": 0,
        "seconds": 7,
    }
    result |= {"test_loss": float("inf"), "train_loss": float("nan"), "best_top1_error": None}
    _, (row,) = table(record_of({}), result=result, provenance={"dirty": False, "commit": None})
    expected = result | {"test_loss": None, "train_loss": None, "seconds": 7.0, "dirty": False, "commit": None}
    assert {name: row[name] for name in expected} == expected
    assert row["dirty"] is False and isinstance(row["seconds"], float) and isinstance(row["data_retries"], int)
    line: dict[str, Any] = {
        "epoch": 3,
        "learning_rate": 0.0,
        "top1_error": 0.0,
        "train_loss": float("-inf"),
        "seconds": 0,
    }
    _, (row,) = table(record_of({}), "epochs", metrics=(line,))
    assert {name: row[name] for name in line} == line | {"train_loss": None}


def test_a_trial_that_has_given_up_has_the_epochs_that_it_did() -> None:
    record = record_of({"run.epochs": 9})
    ((trial_id, trial),) = record["trials"].items()
    lines = ({"epoch": 1}, {"epoch": 3})
    failed = TrialResults(trial_id, trial["name"], trial["config"], "failed", metrics=lines, reason="out of memory")
    made = ResultTable(record, "trials")
    (row,) = (dict(zip(OF_TRIALS, values, strict=True)) for values in made.rows(iter([failed])))
    assert (row["epochs_done"], row["epochs"], row["reason"]) == (3, None, "out of memory")


def test_a_setting_has_the_type_of_its_values_and_each_trial_its_own() -> None:
    record = record_of(
        {"data.flip": True, "solver.weight_decay": 0.00025, "run.seed_order": 0, "solver.learning_rate": 0.5},
        {"data.flip": False, "solver.weight_decay": 0.75, "run.seed_order": 3, "solver.learning_rate": 1},
        {"data.flip": False, "solver.weight_decay": 0.0, "solver.learning_rate": 0.001, "run.seed": 5},
    )
    record["trials"][f"{1:016x}"]["config"]["solver"]["learning_rate"] = 1  # as JSON of another writer has it
    kinds, rows = table(record)
    expected = {
        "data.flip": ("boolean", [True, False, False]),
        "solver.weight_decay": ("number", [0.00025, 0.75, 0.0]),
        "run.seed_order": ("integer", [0, 3, None]),
        "solver.learning_rate": ("number", [0.5, 1.0, 0.001]),
    }
    assert set(kinds) - set(OF_TRIALS) == set(expected)
    assert {name: (kinds[name], [row[name] for row in rows]) for name in expected} == expected
    assert [type(row["data.flip"]) for row in rows] == [bool] * 3
    assert [row["seed"] for row in rows] == [0, 0, 5]


def test_a_setting_that_records_of_earlier_versions_lack_is_a_column_where_it_has_an_effect() -> None:
    record = record_of({}, {"data.shift": 2}, {}, {})
    configs = [trial["config"] for trial in record["trials"].values()]
    del configs[0]["data"]["shift"], configs[0]["run"]["threads"], configs[0]["code"]
    del configs[2]["data"]["shift"], configs[3]["data"]["shift"]
    configs[1]["code"]["fingerprint"], configs[2]["code"]["fingerprint"] = "aa", "bb"
    kinds, rows = table(record)
    assert set(kinds) - set(OF_TRIALS) == {"data.shift", "code.fingerprint"}
    assert [row["data.shift"] for row in rows] == [None, 2, None, None]
    assert [row["code.fingerprint"] for row in rows] == [None, "aa", "bb", ""]
