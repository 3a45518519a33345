"""`results --to mlflow | wandb`: finished trials given to what people have already, each once."""

import importlib
import json
import os
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.keys import BrowsableStorage
from resnet_dist.errors import StorageError
from resnet_dist.storage.interface import TrialKeys, experiment_key
from tests.s3_server import free_ports
from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_early_stop,
    record_experiment,
    record_failure,
    record_result,
)
from tune_jobs.actions.hand_over import Given, hand_over
from tune_jobs.command_line import main
from tune_jobs.grid.experiment import Trial

STARTED = {"started": "2026-11-27T12:00:00+00:00"}


@pytest.fixture
def stored(tmp_path: Path) -> tuple[BrowsableStorage, tuple[Trial, ...]]:
    """Two rows of two seeds, of which three trials are finished and one has failed."""
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    for trial, error in zip(trials[:3], (0.125, 0.25, 0.5), strict=True):
        record_result(storage, "two-rows", trial, error, STARTED)
    record_failure(storage, "two-rows", trials[3], "out of memory")
    return storage, trials


def handed(storage: BrowsableStorage, capsys: pytest.CaptureFixture[str], *to: str) -> tuple[int, int, int]:
    assert main(["results", f"{storage.uri}/two-rows", "--format", "json", "--to", *to]) == 0
    said = json.loads(capsys.readouterr().out)
    return said["added"], said["there"], said["unfinished"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An MLflow tracking server of this test's own, on SQLite."""
    folder, (port,) = tmp_path / "mlflow", free_ports(1)
    folder.mkdir()
    options = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", *options, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--workers", "1"], env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while not answers(f"{url}/health"):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
            yield url
        finally:
            os.killpg(process.pid, 15)
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # of MLflow's own
def test_mlflow_has_each_finished_trial_once_with_parameters_metrics_and_artifacts(
    server: str,
    stored: tuple[BrowsableStorage, tuple[Trial, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, trials = stored
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr("tune_jobs.actions.to_mlflow.AT_A_TIME", 3)
    assert handed(storage, capsys, "mlflow", server) == (3, 0, 1)
    assert handed(storage, capsys, "mlflow", server) == (0, 3, 1)
    client: Any = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("two-rows").experiment_id
    runs = {run.data.tags["resnet_dist.trial"]: run for run in client.search_runs([experiment])}
    assert set(runs) == {trial.trial_id for trial in trials[:3]}
    run = runs[trials[2].trial_id]
    assert run.data.params["network.depth"] == "32" and run.data.tags["resnet_dist.cells"] == "depths: deep"
    assert run.data.metrics["top1_error"] == 0.5 and run.info.run_name == trials[2].name
    noon = 1_795_780_800_000
    assert (run.info.start_time, run.info.end_time, run.info.status) == (noon, noon + 4000, "FINISHED")
    expected = {"learning_rate": (0.1, 0.1), "test_loss": (1, 1), "train_loss": (2, 1), "seconds": (2, 2)}
    expected |= {"top1_error": (0.5, 0.5), "top5_error": (0.05, 0.05), "images_per_second": (25000, 25000)}
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    assert {name: sorted((p.step, p.timestamp, p.value) for p in points) for name, points in histories.items()} == {
        name: [(1, noon + 2000, first), (2, noon + 4000, second)] for name, (first, second) in expected.items()
    }
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert files >= {"model.pt", "result.json", "config.json", "metrics.jsonl", "provenance.json"}
    # What an interrupted hand-over left is given anew.
    client.set_terminated(run.info.run_id, "RUNNING")
    assert handed(storage, capsys, "mlflow", server) == (1, 2, 1)
    assert len(client.search_runs([experiment])) == 3


def wandb_records(file: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The run and the points of its curves, from a file in the form of LevelDB's logs behind a header of 7 bytes."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, place, whole = file.read_bytes(), 7, b""
    run, points = None, []
    while place < len(data):
        if (left := 2**15 - place % 2**15) < 7:  # of a block, too little for another piece
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of a record, or its last piece
            record, whole = messages.Record.FromString(whole), b""
            if record.HasField("run"):
                run = record.run
            elif record.HasField("history"):
                values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                points.append({name: json.loads(value) for name, value in values.items()})
    return run, points


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # of wandb's own
def test_wandb_has_each_finished_trial_once_offline(
    stored: tuple[BrowsableStorage, tuple[Trial, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, trials = stored
    folder = tmp_path / "runs"
    assert handed(storage, capsys, "wandb", str(folder)) == (3, 0, 1)
    assert handed(storage, capsys, "wandb", str(folder)) == (0, 3, 1)
    (run,) = (folder / "wandb").glob(f"offline-run-*-{trials[0].trial_id}")
    told, points = wandb_records(run / f"run-{trials[0].trial_id}.wandb")
    assert (told.project, told.display_name, told.run_id) == ("two-rows", trials[0].name, trials[0].trial_id)
    settings = {item.key: json.loads(item.value_json) for item in told.config.update}
    assert settings["network"]["depth"] == 20 and settings["run"]["seed"] == 0
    assert settings["resnet_dist"]["cells"] == "depths: shallow" and settings["resnet_dist"]["commit"] == "1f" * 20
    assert [(point["_step"], point["top1_error"], point["train_loss"]) for point in points] == [
        (1, 0.5, 2),
        (2, 0.125, 1),
    ]
    assert (run / "files" / "model.pt").read_bytes() == b"weights"
    (run / "resnet_dist.complete").unlink()
    assert handed(storage, capsys, "wandb", str(folder)) == (1, 2, 1)
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 3


def test_a_trial_is_given_with_its_own_numbers_origin_rows_and_files(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    origin = {"started": "2026-11-27T14:00:00+02:00", "torch": "2.14.1", "commit": "cd" * 20}
    record_result(storage, "two-rows", trials[0], 0.0, origin)
    record_early_stop(storage, "two-rows", trials[1], [0.5])
    storage.put(TrialKeys("two-rows", trials[0].trial_id).prefix + "checkpoints/5/state.pt", b"state")
    record = json.loads(storage.get(experiment_key("two-rows")) or b"")
    record["tables"].append(record["tables"][0] | {"name": "again"})
    storage.put(experiment_key("two-rows"), json.dumps(record).encode())
    found: list[Given] = []
    files: dict[str, bytes] = {}

    def give(given: Given) -> None:
        found.append(given)
        files.update({path.name: path.read_bytes() for path in given.files.iterdir()})

    done = hand_over(storage, "two-rows", "there", lambda _: False, give, lambda _: None)
    assert (done.added, done.there, done.unfinished) == (1, 0, 3)
    (given,) = found
    assert (given.trial.trial_id, given.cells) == (trials[0].trial_id, "depths: shallow; again: shallow")
    assert given.origin == {
        "commit": "cd" * 20,
        "dirty": "False",
        "data_fingerprint": "ab" * 16,
        "torch": "2.14.1",
        "device": "cpu",
    }
    assert given.started == 1_795_780_800  # noon in Greenwich
    constant = {"learning_rate": 0.1, "test_loss": 1.0, "seconds": 2.0, "images_per_second": 25000.0}
    assert list(given.epochs) == [
        (1, 2.0, constant | {"train_loss": 2.0, "top1_error": 0.5, "top5_error": 0.05}),
        (2, 4.0, constant | {"train_loss": 1.0, "top1_error": 0.0, "top5_error": 0.0}),
    ]
    names = {"config.json", "metrics.jsonl", "model.pt", "provenance.json", "result.json"}
    assert set(files) == names and files["model.pt"] == b"weights"


def test_weights_that_are_not_the_results_are_not_given(
    stored: tuple[BrowsableStorage, tuple[Trial, ...]],
) -> None:
    storage, (first, *_) = stored
    storage.put(TrialKeys("two-rows", first.trial_id).model, b"others!")
    with pytest.raises(StorageError, match=r"model\.pt: is damaged or replaced"):
        hand_over(storage, "two-rows", "there", lambda _: False, lambda _: None, lambda _: None)


def test_each_trial_is_named_as_it_is_given(stored: tuple[BrowsableStorage, tuple[Trial, ...]]) -> None:
    storage, (first, second, third, _) = stored
    said = list[str]()
    done = hand_over(storage, "two-rows", "there", lambda trial: trial == second.trial_id, lambda _: None, said.append)
    assert said == [f"[1/3] {first.name}", f"[3/3] {third.name}"]
    assert done.line() == "there: 2 trials added, 1 there already; 1 trial not finished yet"


@pytest.mark.filterwarnings("ignore")  # of MLflow's own
def test_a_server_that_does_not_answer_is_one_line(
    stored: tuple[BrowsableStorage, tuple[Trial, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert main(["results", f"{stored[0].uri}/two-rows", "--to", "mlflow", uri]) == 1
    said = capsys.readouterr().err
    assert said == f"error: --to mlflow {uri}: no server answers there; start one with: mlflow server\n"


@pytest.mark.parametrize(
    ("to", "says"),
    [
        (["comet"], "--to comet: is not known; give `mlflow URI` or `wandb [DIR]`"),
        (["mlflow"], "--to mlflow: is not known; give `mlflow URI` or `wandb [DIR]`"),
        (
            ["mlflow", "http://127.0.0.1:9"],
            "--to mlflow: needs mlflow-skinny; install it with: pip install mlflow-skinny",
        ),
        (["wandb"], "--to wandb: needs wandb; install it with: pip install wandb"),
    ],
)
def test_what_is_missing_is_one_line(
    to: list[str],
    says: str,
    stored: tuple[BrowsableStorage, tuple[Trial, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("mlflow", "mlflow.entities", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["results", f"{stored[0].uri}/two-rows", "--to", *to]) == 1
    assert capsys.readouterr().err == f"error: {says}\n"
