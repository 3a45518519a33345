"""`resnet-dist results`: the same tidy table in every format."""

import csv
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from pyarrow import parquet

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.storage.interface import LAYOUT, StoredObject, TrialKeys
from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_experiment,
    record_failure,
    record_metrics,
    record_result,
)
from tune_jobs.command_line import main
from tune_jobs.commands.results import WRITERS
from tune_jobs.results.tidy_table import ResultTable, varying_settings
from tune_jobs.results.trials import iterate_trials

EXPERIMENT = """
name = "mixed"
title = "Mixed"
[recipe.data]
source = "cifar10"
[[table]]
name = "one"
title = "One"
[[table.cell]]
label = "shallow"
[[table.cell]]
label = "deep, dynamic"
set = { "network.depth" = 32, "batch_norm.momentum" = "dynamic", "schedule.milestones" = [50, 60] }
[[table]]
name = "two"
title = "Two"
[[table.cell]]
label = "again"
"""


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Four trials: finished, unfinished, failed, missing."""
    storage, trials = record_experiment(tmp_path, experiment_from(EXPERIMENT, tmp_path), seeds=2)
    record_result(storage, "mixed", trials[0], 0.125, {"commit": "ab" * 20})
    record_metrics(storage, "mixed", trials[1], [0.5, 0.4, 0.3])
    record_failure(storage, "mixed", trials[2], 'out of "memory", twice')
    return f"{storage.uri}/mixed"


def rows(uri: str, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    assert main(["results", uri, "--format", "json", *options]) == 0
    return list(json.loads(capsys.readouterr().out))


def test_a_trial_is_a_row_with_what_varies_and_its_result(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(uri, capsys)
    assert [(row["state"], row["seed"]) for row in found] == [
        ("finished", 0),
        ("unfinished", 1),
        ("failed", 0),
        ("missing", 1),
    ]
    first, begun, failed, _ = found
    assert (first["top1_error"], first["commit"], first["epochs_done"]) == (0.125, "ab" * 20, 2)
    assert first["cells"] == "one: shallow; two: again"
    assert (begun["epochs_done"], begun["top1_error"]) == (3, None)
    assert failed["reason"] == 'out of "memory", twice'
    settings = ["network.depth", "batch_norm.momentum", "schedule.milestones"]
    assert [[row[name] for name in settings] for row in (first, failed)] == [
        [20, "0.1", "80,120"],
        [32, "dynamic", "50,60"],
    ]
    assert not {"data.source", "run.seed"} & first.keys(), "a setting that is the same everywhere is no column"


def test_an_epoch_is_a_row(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(uri, capsys, "--rows", "epochs")
    assert [(row["state"], row["epoch"], row["top1_error"]) for row in found] == [
        ("finished", 1, 0.5),
        ("finished", 2, 0.125),
        ("unfinished", 1, 0.5),
        ("unfinished", 2, 0.4),
        ("unfinished", 3, 0.3),
    ]
    assert all(row["network.depth"] == 20 for row in found)


@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_every_format_holds_the_same_table(
    table: str, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = rows(uri, capsys, "--rows", table)
    for form in ("csv", "parquet"):
        target = tmp_path / f"table.{form}"
        assert main(["results", uri, "--rows", table, "--format", form, "--output", str(target)]) == 0
    assert parquet.read_table(tmp_path / "table.parquet").to_pylist() == expected
    with (tmp_path / "table.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    as_text = [{name: as_csv(value) for name, value in row.items()} for row in expected]
    assert found == as_text
    assert sorted(tmp_path.glob(".*")) == [], "a temporary file was left"


def as_csv(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def test_rows_beyond_a_group_of_a_parquet_file_follow_in_order(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_jobs.commands.results.ROW_GROUP", 2)
    target = tmp_path / "table.parquet"
    assert main(["results", uri, "--rows", "epochs", "--format", "parquet", "--output", str(target)]) == 0
    file = parquet.ParquetFile(target)
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [2, 2, 1]
    assert file.read().to_pylist() == rows(uri, capsys, "--rows", "epochs")


def test_a_csv_file_has_lines_in_utf_8_that_end_alike_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TWO_ROWS.replace('"shallow"', '"größer als 5×5, κ"')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=1)
    record_failure(storage, "two-rows", trials[0], "Zürich")
    target = tmp_path / "table.csv"
    assert main(["results", f"{storage.uri}/two-rows", "--output", str(target)]) == 0
    lines = target.read_bytes().decode("utf-8").split("\n")
    assert len(lines) == 1 + 2 + 1 and lines[-1] == "" and "\r" not in "".join(lines)
    assert '"depths: größer als 5×5, κ"' in lines[1] and lines[1].endswith(",Zürich")


def test_a_path_that_is_not_utf_8_is_the_same_text_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_failure(storage, "two-rows", trials[0], os.fsdecode(b"no images in /data/\xff"))
    uri, target = f"{storage.uri}/two-rows", tmp_path / "table"
    assert rows(uri, capsys)[0]["reason"] == "no images in /data/\\udcff"
    assert main(["results", uri, "--output", str(target)]) == 0
    assert target.read_text(encoding="utf-8").splitlines()[1].endswith(",no images in /data/\\udcff")
    assert main(["results", uri, "--format", "parquet", "--output", str(target)]) == 0
    assert parquet.read_table(target).to_pylist()[0]["reason"] == "no images in /data/\\udcff"


def test_a_table_without_rows_is_whole_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    uri = f"{storage.uri}/two-rows"
    assert rows(uri, capsys, "--rows", "epochs") == []
    assert main(["results", uri, "--rows", "epochs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    target = tmp_path / "table.parquet"
    assert main(["results", uri, "--rows", "epochs", "--format", "parquet", "--output", str(target)]) == 0
    assert parquet.read_table(target).num_rows == 0 and "top1_error" in parquet.read_table(target).column_names


def test_what_cannot_be_written_to_its_end_leaves_the_earlier_file_and_no_other(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(columns: object, found: object, file: IO[str]) -> None:
        file.write("half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    (folder := tmp_path / "tables").mkdir()
    (folder / "table.csv").write_text("the earlier table")
    monkeypatch.setitem(WRITERS, "csv", full)
    assert main(["results", uri, "--output", str(folder / "table.csv")]) == 1
    assert f"--output {folder}/table.csv: cannot be written: No space left" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("table.csv", "the earlier table")]


def test_an_experiment_without_trials_is_a_table_without_rows() -> None:
    record: dict[str, Any] = {"tables": [], "trials": {}}
    assert [column.name for column in ResultTable(record, "trials").columns][:4] == ["trial", "name", "cells", "state"]
    assert varying_settings({}) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([""], "is a storage; give one of its experiments: "),
        (["/mixed", "--format", "parquet"], "--format parquet: is not for a terminal; name a file with --output"),
        (["/mixed", "--output", "/nowhere/table.csv"], "--output /nowhere/table.csv: cannot be written: No such file"),
        (["/other"], "other: no such experiment"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = uri.removesuffix("/mixed") + arguments[0]
    assert main(["results", place, *arguments[1:]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_the_experiments_of_a_storage_are_named_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path)
    for number in range(10):
        storage.put(f"grid-{number}/experiment.json", b"{}")
    assert main(["results", str(tmp_path)]) == 1
    others = ", ".join(f"grid-{number}" for number in range(1, 8))
    assert f"give one of its experiments: {tmp_path}/grid-0 (or {others}, …)\n" in capsys.readouterr().err


def test_an_experiment_in_the_root_directory_is_looked_for_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "/no-such-experiment"]) == 1
    assert "no-such-experiment: no such experiment in /;" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["s3://bucket", "/"])
def test_a_storage_alone_is_one_line(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", uri]) == 1
    assert "give STORAGE/EXPERIMENT" in capsys.readouterr().err


class InMemory(LocalStorage):
    """Storage of a large experiment, which counts what is read."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__("memory")
        self.objects = objects
        self.reads = 0

    def get(self, key: str) -> bytes | None:
        self.reads += 1
        return self.objects.get(key)

    def list(self, prefix: str) -> list[StoredObject]:
        return [StoredObject(key, len(data), "") for key, data in self.objects.items() if key.startswith(prefix)]


def large(trials: int) -> tuple[InMemory, dict[str, Any]]:
    config = TrainingConfig().to_dict()
    objects: dict[str, bytes] = {}
    asked = {}
    for number in range(trials):
        trial_id = f"{number:016x}"
        keys = TrialKeys("large", trial_id)
        result = {"layout": LAYOUT, "trial": trial_id, "top1_error": 0.5, "epochs": 1}
        objects[keys.result] = json.dumps(result).encode()
        objects[keys.metrics] = b'{"epoch": 1, "train_loss": 1.0, "top1_error": 0.5}\n'
        asked[trial_id] = {"name": str(number), "config": config | {"run": config["run"] | {"seed": number}}}
    return InMemory(objects), asked


def test_thousands_of_trials_are_a_row_each_and_not_read_all_at_once() -> None:
    storage, asked = large(3_600)
    table = ResultTable({"tables": [], "trials": asked}, "epochs")
    found: Iterator[list[Any]] = table.rows(iterate_trials(storage, "large", asked))
    assert next(found)[:2] == ["0000000000000000", "0"]
    assert storage.reads <= 2 * 256
    assert sum(1 for _ in found) == 3_599


def test_a_pipe_is_written_to_and_not_replaced(uri: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)  # so that neither side waits for the other
    try:
        assert main(["results", uri, "--output", str(pipe)]) == 0
        assert pipe.is_fifo() and os.read(descriptor, 65_536).startswith(b"trial,name,")
    finally:
        os.close(descriptor)


@pytest.fixture
def searched(tmp_path: Path) -> str:
    """Two rows of three seeds; the best trial is of the row whose mean is the worse one."""
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    for trial, error in zip(trials, (0.10, 0.20, 0.30, 0.16, 0.17, 0.18), strict=True):
        record_result(storage, "two-rows", trial, error, {"images": {"test": 1000, "classes": 10}})
    return f"{storage.uri}/two-rows"


def test_the_best_trial_is_named_with_its_interval_and_that_of_its_row(
    searched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = best_of(searched, capsys)
    assert (found["value"], found["measure"], found["of_trials"], found["images"]) == (0.1, "top1_error", 6, 1000)
    assert found["interval"] == pytest.approx((0.08291, 0.12015), abs=1e-5)
    (row,) = found["rows"]
    assert (row["row"], row["n"], row["mean"]) == ("shallow", 3, pytest.approx(0.2))
    # 0.2 ± 4.302653 * 0.1 / sqrt(3); and no error is below 0.
    assert row["interval"] == pytest.approx((0.0, 0.448414), abs=1e-6)
    assert main(["results", searched, "--best"]) == 0
    said = capsys.readouterr().out
    assert "top1_error 10.00 %\n  95 % interval over its 1,000 images: 8.29 % to 12.02 %\n" in said
    assert "the best of 6 trials was chosen by this number" in said


def best_of(uri: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["results", uri, "--format", "json", "--best"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_measure_that_no_trial_has_is_one_line(searched: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", searched, "--best", "validation_error"]) == 1
    assert "two-rows: no finished trial has a validation_error" in capsys.readouterr().err


def test_equal_seeds_are_known_to_one_image_and_equal_trials_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    for trial, error in zip(trials, (0.5, 0.5, 0.75, 0.75), strict=True):
        record_result(storage, "two-rows", trial, error, {"images": {"test": 12, "classes": 2}})
    uri = f"{storage.uri}/two-rows"
    found = best_of(uri, capsys)
    first, second = sorted(trial.trial_id for trial in trials[:2])
    assert (found["trial"], found["equal"]) == (first, [second])
    # 0.5 ± 12.7062 * (1/12) / sqrt(2), and no error is beyond 0 or 1: as the report has it
    assert found["rows"][0]["interval"] == [0.0, 1.0]
    assert main(["results", uri, "--best"]) == 0
    assert f"1 other trial has the same: {second}\n" in capsys.readouterr().out


def test_the_interval_of_losses_has_no_upper_end_at_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    for trial, loss in zip(trials, (2.0, 2.2, 5.0, 6.0), strict=True):
        record_result(storage, "two-rows", trial, 0.5, {"images": {"test": 100}}, {"test_loss": loss})
    assert main(["results", f"{storage.uri}/two-rows", "--best", "test_loss", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    # 2.1 ± 12.706205 * 0.1414214 / sqrt(2)
    assert row["interval"] == pytest.approx((0.829380, 3.370620), abs=1e-6)


def test_the_best_trial_goes_where_output_says(
    searched: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "best.txt"
    assert main(["results", searched, "--best", "--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    assert "top1_error 10.00 %\n" in target.read_text()
    for options in (["--rows", "epochs"], ["--format", "parquet", "--output", str(target)]):
        assert main(["results", searched, "--best", *options]) == 1
        assert "leave out --rows and --format parquet" in capsys.readouterr().err
