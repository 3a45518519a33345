"""What `grid plan` foretells of a run's requests and bytes is what the storage then counts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.local import LocalStorage
from resnet_dist import launch
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.launch import Job, run_in_process
from resnet_dist.training.solvers import make_solver
from tests.small_runs import small_config, small_dataset
from tests.unreliable_storage import UnreliableStorage
from tune_jobs.command_line import main
from tune_jobs.grid.write_cost import SOLVER_TENSORS, WriteCost, in_words, solver_tensors, total, write_cost

RUNS: dict[str, dict[str, Any]] = {
    "each epoch": {"run__epochs": 10},
    "every third epoch": {"run__epochs": 10, "run__checkpoint_epochs": 3},
    "inside epochs": {"run__epochs": 3, "run__checkpoint_steps": 2},
    "one epoch": {"run__epochs": 1},
    "adam in float64": {"run__epochs": 2, "solver__kind": "adam", "run__precision": "float64"},
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("remote", [True, False])
def test_a_run_makes_the_requests_and_sends_the_bytes_that_were_foretold(
    run: str, remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "run__precision": "float32",
        "schedule__milestones": [],
        "run__device": "cpu",
        "network__width": 16,
    }
    config = small_config(**(settings | RUNS[run]))
    monkeypatch.setattr(launch, "_dataset", lambda _: small_dataset(train=56, test=10))
    storage = UnreliableStorage(tmp_path, remote)
    run_in_process(Job(config, "e", "name", lambda: storage))
    foretold, totals = write_cost(config, 56, 10, remote), storage.counts.totals()
    patch = storage.get(f"e/trials/{config.trial_id()}/source.patch")
    made = sum(totals.requests.values()) - (patch is not None)
    sent = totals.sent - len(patch or b"")
    if remote:  # what is brought together, or deleted before its turn, makes it fewer
        assert made <= foretold.requests and sent <= 1.1 * foretold.sent
    else:
        assert made == foretold.requests and sent == pytest.approx(foretold.sent, rel=0.1)
    kept = sum(item.size for item in storage.list("")) - len(patch or b"")
    assert kept == pytest.approx(foretold.kept, rel=0.1)


@pytest.mark.parametrize("kind", SOLVER_TENSORS)
def test_each_solver_keeps_the_tensors_that_are_counted(kind: str) -> None:
    config = TrainingConfig().override({"solver.kind": kind}).solver
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    solver = make_solver(config, [parameter])
    solver.step()
    kept = [value.numel() for value in solver.state[parameter].values() if torch.is_tensor(value)]
    assert (kept.count(2), kept.count(1)) == solver_tensors(config)


def test_large_checkpoints_take_a_request_for_each_part() -> None:
    config = small_config(network__depth=110, network__width=64, run__epochs=1, schedule__milestones=[])
    here, there = write_cost(config, 56, 10, is_remote=False), write_cost(config, 56, 10, is_remote=True)
    assert there.sent == here.sent > 2 * 64 * 2**20
    assert there.requests - here.requests > there.sent / 2**24


def test_the_line_speaks_of_the_whole_grid() -> None:
    line = in_words(total([WriteCost(6.0, 2.3e6, 1216, 460_000_000, 1_900_000)] * 3600), 3600)
    assert line == (
        "Storage: 6.0 requests and 2.3 MB an epoch and trial; 3,600 trials from beginning to end: 4,377,600 requests, "
        "1.66 TB sent, 6.84 GB kept"
    )


def test_the_plan_states_the_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["grid", "plan", "model-size", "--seeds", "2", "--storage", str(tmp_path), "--no-measure"]
    assert main(command) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Storage: ")]
    assert "10 trials from beginning to end" in line
    assert main([*command, "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["storage"]
    assert cost["requests"] > 10 * 200 * 5.9 and cost["sent"] > 10 * 200 * 2e6
    assert LocalStorage(tmp_path).list("") == []
