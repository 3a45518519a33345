"""What a trial has asked of storage stands in its result, and `grid plan` tells what others will ask."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist import launch
from resnet_dist.configuration.run import RunConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.launch import Job, run_in_process
from tests.small_runs import small_config, small_dataset
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_result
from tests.unreliable_storage import UnreliableStorage
from tune_jobs.command_line import main
from tune_jobs.grid import storage_use


def config_of(epochs: int, **settings: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {"run__precision": "float32", "schedule__milestones": [], "run__device": "cpu"}
    defaults["run__checkpoint_seconds"] = 0  # how many come by time depends on the machine
    return small_config(run__epochs=epochs, **defaults | settings)


def totals(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, config: TrainingConfig) -> dict[str, Any]:
    """The result of a run."""
    monkeypatch.setattr(launch, "_dataset", lambda _: small_dataset(train=56, test=10))
    return run_in_process(Job(config, "e", "name", partial(lambda: storage)))


@pytest.mark.parametrize(("checkpoint_epochs", "taken"), [(0, 2), (1, 6)])
def test_an_epoch_takes_two_requests_and_its_checkpoint_four(
    checkpoint_epochs: int, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (
        totals(
            LocalStorage(tmp_path / str(epochs)),
            monkeypatch,
            config_of(epochs, run__checkpoint_epochs=checkpoint_epochs),
        )["storage_requests"]
        for epochs in (4, 6)
    )
    assert many - few == 2 * taken, "events, metrics line; state, manifest, and two deletions"


@pytest.mark.parametrize("checkpoint_epochs", [0, 2])
def test_what_a_plan_expects_is_what_a_run_asks_for(
    checkpoint_epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(8, run__checkpoint_epochs=checkpoint_epochs, run__summary_steps=1, network__width=16)
    storage = LocalStorage(tmp_path)
    result = totals(storage, monkeypatch, config)
    weights = 4 * result["parameters"]
    requests, sent = storage_use.expected(config, result["seconds"], result["steps"], weights, state_copies=2)
    asked = sum(storage.counts.totals().requests.values())  # with those that come after the result
    assert asked == pytest.approx(requests, rel=0.1)
    assert result["storage_bytes"] == pytest.approx(sent, rel=0.2)


@pytest.mark.parametrize("remote", [True, False])
def test_a_result_tells_what_has_been_sent_and_what_waits_to_be(
    remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = UnreliableStorage(tmp_path, remote)
    result = totals(storage, monkeypatch, config_of(4, run__checkpoint_epochs=1))
    counts = storage.counts.totals()
    deleted = 4  # the two last checkpoints, after the result
    data = (tmp_path / "e/trials" / result["trial"] / "result.json").read_bytes()
    sent, made = counts.sent - len(data), sum(counts.requests.values()) - 1 - deleted
    if remote:  # the one under way is counted twice, and what waits may yet be brought together
        assert sent <= result["storage_bytes"] <= 2 * sent and made <= result["storage_requests"] <= made + 10
    else:
        assert (result["storage_bytes"], result["storage_requests"]) == (sent, made)


def test_the_plan_tells_the_mean_of_the_finished_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    file, uri = str(tmp_path / "experiment.toml"), str(tmp_path / "storage")
    command = ["grid", "plan", file, "--seeds", "2", "--storage", uri, "--no-measure"]
    assert main(command) == 0
    assert "Storage: requests and bytes of a trial are known when the first one is finished" in capsys.readouterr().out
    for trial, requests, attempts in zip(trials[:3], (1000, 1400, 9), (1, 1, 2), strict=True):
        said = {"storage_requests": requests, "storage_bytes": 1000 * requests, "attempts": attempts}
        record_result(storage, "two-rows", trial, 0.1, result=said)
    assert main(command) == 0
    line = "Storage: a finished trial has made 1,200 requests and sent 1.2 MB on average; 1 trial to go"
    assert line in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["storage"] == {"requests": 1200, "sent": 1_200_000}


@pytest.mark.parametrize(
    ("run", "seconds", "steps", "expected"),
    [
        (RunConfig(), 96_000, 1600, 27),  # an hour apart, where a sixteenth of the run is longer
        (RunConfig(checkpoints=4), 1000, 10, 4),
        (RunConfig(checkpoints=0), 1000, 10, 17),  # a minute apart
        (RunConfig(checkpoint_seconds=0, checkpoint_steps=4), 1000, 10, 3),
        (RunConfig(checkpoint_seconds=0, epochs=200, checkpoint_epochs=2, checkpoint_steps=4), 1000, 1600, 400),
        (RunConfig(checkpoint_seconds=0), 1000, 10, 1),
    ],
)
def test_as_many_checkpoints_are_expected_as_are_written(
    run: RunConfig, seconds: float, steps: int, expected: int
) -> None:
    assert storage_use.checkpoints(run, seconds, steps) == expected
