"""Runs that follow one another in one process have the bits of runs in processes of their own."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.storage.local import LocalStorage
from resnet_dist.custom_code import install
from resnet_dist.records.recorder import Recorder
from resnet_dist.training.loop import train
from resnet_dist.training.numerics import settings_of_run
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset
from tests.worker_processes import run_workers

CARELESS = """
import torch
from torch import nn

def careless(network, batch_norm, classes):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = True
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes, dtype=torch.float32))
"""

RUNS: dict[str, dict[str, Any]] = {
    "exact": {"run__exact": True},
    "ordinary": {},
    "of code that changes what it likes": {"network__family": "careless_code:careless"},
    "bfloat16": {"run__precision": "bfloat16"},
    "ordinary, with another seed": {"run__seed": 1},
}


def losses(names: list[str], directory: Path) -> dict[str, list[float]]:
    """Run in a process that has two threads: the losses of the first updates of runs, one after another."""
    torch.set_num_threads(2)
    install({"careless_code.py": CARELESS})
    dataset, found = small_dataset(train=256), {}
    for name in names:
        # Wide enough that two threads share an operation, and round otherwise than one.
        base = {"network__width": 16, "data__batch_size": 64, "run__epochs": 1, "schedule__milestones": []}
        config = small_config(**base | {"run__precision": "float32"} | RUNS[name])
        recorder = Recorder(LocalStorage(directory), "e", name, config)
        curve: list[Tensor] = []
        train(config, dataset, alone("cpu"), recorder, None, lambda step, loss: curve.append(loss.sum()))  # noqa: B023
        found[name] = torch.stack(curve).tolist()
    return found


@pytest.mark.integration
def test_unlike_runs_in_one_process_have_the_bits_of_fresh_processes(tmp_path: Path) -> None:
    (together,) = run_workers(losses, 1, list(RUNS), tmp_path / "together")
    for name in RUNS:
        (alone,) = run_workers(losses, 1, [name], tmp_path / f"alone-{name}")
        assert together[name] == alone[name] and len(alone[name]) == 4, name
    assert together["ordinary"] == pytest.approx(together["exact"], rel=1e-2)
    assert together["ordinary"] != together["exact"], "settings made no difference"


def state() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "threads": torch.get_num_threads(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "types": (torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "cuBLAS": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("workspace", [None, ":0:0"])
def test_settings_are_those_of_the_run_and_taken_back(
    exact: bool, workspace: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = state()
    with pytest.raises(ZeroDivisionError), settings_of_run(exact):
        inside = state()
        torch.set_default_dtype(torch.float64)  # what a run's own code may do
        torch.set_num_threads(3)
        raise ZeroDivisionError
    assert inside["threads"] == (1 if exact else before["threads"])
    assert inside["deterministic"] == (exact, False)
    # On GPUs a run that goes on after an interruption has the same bits, and float32 is float32.
    assert inside["cudnn"] == (True, False, True, False)
    assert inside["types"] == (torch.float32, "highest")
    assert inside["cuBLAS"] == ":4096:8"
    assert state() == before
