"""The examples of docs/storage.md do what they say, on a small experiment."""

import os
import re
import subprocess
from pathlib import Path

import duckdb
import pytest

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.networks.cifar import ResidualNetwork
from resnet_dist.records import checkpoints
from resnet_dist.storage.interface import TrialKeys
from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_experiment,
    record_failure,
    record_result,
)
from tune_jobs.command_line import main

GUIDE = Path(__file__).parents[1] / "docs" / "storage.md"


def examples(language: str) -> list[str]:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, f"the guide has no example for {language}"
    return blocks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `results/model-size` and the two tables that the guide makes first."""
    name = "model-size"
    experiment = experiment_from(TWO_ROWS.replace("two-rows", name), tmp_path)
    storage, trials = record_experiment(tmp_path, experiment, seeds=2)
    for trial, error in zip(trials, (0.125, 0.25, 0.5), strict=False):
        record_result(storage, name, trial, error)
        config = TrainingConfig().override({"network.depth": 8, "network.width": 2})
        weights = {
            "network": ResidualNetwork(config.network, config.batch_norm, 10).state_dict(),
            "config": config.to_dict(),
        }
        storage.put(TrialKeys(name, trial.trial_id).model, checkpoints.encode(weights))
    record_failure(storage, name, trials[3], "out of memory")
    Path(storage.uri).rename(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    assert main(["results", f"results/{name}", "--output", "trials.csv"]) == 0
    options = ["--rows", "epochs", "--format", "parquet", "--output", "epochs.parquet"]
    assert main(["results", f"results/{name}", *options]) == 0
    return tmp_path


def test_the_python_examples_print_what_was_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for code in examples("python"):
        exec(compile(code, GUIDE.name, "exec"), {})
        printed.append(capsys.readouterr().out)
    pandas, torch = printed
    assert "0.1875" in pandas and "0.5000" in pandas
    assert len(torch.splitlines()) == 3 and torch.startswith("8 ")


def test_the_duckdb_examples_find_what_was_recorded(folder: Path) -> None:
    (block,) = examples("sql")
    connection = duckdb.connect()
    table, records, epochs = (connection.execute(query).fetchall() for query in block.split(";") if query.strip())
    assert [row[:2] for row in table] == [(20, 0.1875), (32, 0.5)]
    assert [row[1] for row in records] == [0.125, 0.25, 0.5]
    assert len(epochs) == 5 and epochs[0][1:] == (2, 0.125)


def test_the_shell_examples_print_what_was_recorded(folder: Path) -> None:
    (block,) = examples("sh")
    done = subprocess.run(
        ["sh", "-ec", block], cwd=folder, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"}
    )
    lines = done.stdout.splitlines()
    assert lines[0].strip() == "3"
    assert "out of memory" in lines[1]
    assert sum('"epoch": 2' in line for line in lines) == 3
