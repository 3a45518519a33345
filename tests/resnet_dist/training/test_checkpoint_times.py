"""When a run writes checkpoints, by a clock that the tests set."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.run import RunConfig
from resnet_dist.records.recorder import Recorder
from resnet_dist.training import loop
from resnet_dist.training.checkpoint_times import CheckpointTimes
from resnet_dist.workers import Workers, alone, current
from tests.killed_runs import outcome
from tests.small_runs import small_config, small_dataset
from tests.worker_processes import run_workers

ONE = alone("cpu")


class Clock:
    """A time in seconds that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def due_steps(
    run: RunConfig, seconds: list[float], workers: Workers = ONE, first: int = 0, epoch: int = 10**9
) -> list[int]:
    """Steps at which a run writes a checkpoint whose updates take so long, the first of this process after `first`."""
    clock, total = Clock(), first + len(seconds)
    times = CheckpointTimes(run, workers, first, total, clock)
    found = []
    for step, taken in enumerate(seconds, start=first + 1):
        clock.now += taken
        if times.due(step, ended=0 if step % epoch else step // epoch):
            found.append(step)
    return found


def test_a_checkpoint_comes_each_minute_and_after_the_last_update() -> None:
    assert RunConfig().checkpoint_seconds == 60
    run = RunConfig(checkpoints=0)
    assert due_steps(run, [7.0] * 30) == [9, 18, 27, 30]
    assert due_steps(run, [0.1] * 100) == [100]
    assert due_steps(run, [100.0] * 4) == [1, 2, 3, 4]
    assert due_steps(run, [1.0] * 50 + [9.0] * 10) == [52, 59, 60]
    assert due_steps(run, [7.0] * 30, first=5) == [14, 23, 32, 35], "a process that goes on counts from its own start"


def test_a_long_run_has_so_many_and_no_more() -> None:
    assert due_steps(RunConfig(checkpoints=4), [100.0] * 10) == [3, 6, 9, 10]
    assert due_steps(RunConfig(checkpoints=4), [1.0] * 400) == [100, 200, 300, 400]
    assert due_steps(RunConfig(), [30.0] * 1600) == list(range(100, 1601, 100))


def test_an_interruption_of_a_run_of_days_costs_an_hour_at_most() -> None:
    assert due_steps(RunConfig(), [60.0] * 1600) == [*range(60, 1600, 60), 1600]
    assert due_steps(RunConfig(checkpoint_seconds=7200), [60.0] * 1600) == [*range(120, 1600, 120), 1600]


def test_updates_and_epochs_count_besides() -> None:
    assert due_steps(RunConfig(checkpoint_seconds=0), [100.0] * 10) == [10]
    assert due_steps(RunConfig(checkpoint_seconds=0, checkpoint_steps=4), [1.0] * 10) == [4, 8, 10]
    assert due_steps(RunConfig(checkpoint_seconds=0, checkpoint_epochs=2), [1.0] * 10, epoch=2) == [4, 8, 10]
    # A minute counts from the checkpoint before, whatever brought it.
    assert due_steps(RunConfig(checkpoints=0, checkpoint_steps=50), [2.0] * 90) == [30, 50, 80, 90]


def of_two_workers(run: RunConfig) -> tuple[list[int], int]:
    """Run on each of two workers, of which the second one's clock stands still: when, and the messages it took."""
    messages = 0
    broadcast = dist.broadcast_object_list

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal messages
        messages += 1
        broadcast(*arguments, **named)

    dist.broadcast_object_list = counted
    taken = 0.1 if dist.get_rank() == 0 else 0.0
    return due_steps(run, [taken] * 2000, current("cpu")), messages


@pytest.mark.integration
def test_workers_agree_by_the_first_ones_clock_and_seldom_speak_of_it() -> None:
    (first, messages), second = run_workers(of_two_workers, 2, RunConfig(checkpoints=0))
    assert second == (first, messages)
    assert first[-1] == 2000 and 3 <= len(first[:-1]) <= 4
    assert all(600 <= b - a <= 620 for a, b in zip([0, *first], first[:-1], strict=False)), first
    assert messages <= 4 * 25, "of 2,000 updates"


@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_run_goes_on_from_a_checkpoint_by_time_to_the_same_bits(
    stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(loop, "CheckpointTimes", functools.partial(CheckpointTimes, clock=clock))
    config = small_config(run__precision="float32", run__summary_steps=1, run__checkpoints=0)
    dataset = small_dataset(train=56, test=10)
    steps: list[int] = []

    def run(root: Path, stop: int = 0) -> Recorder:
        steps.clear()

        def on_step(step: int, loss: torch.Tensor) -> None:
            steps.append(step)
            clock.now += 35
            if step == stop:
                raise InterruptedError

        recorder = Recorder(LocalStorage(root), "training", "trial", config)
        loop.train(config, dataset, ONE, recorder, on_step=on_step)
        return recorder

    whole = outcome(run(tmp_path / "whole").storage, config, "training")
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", stop_at)
    (newest, *_) = Recorder(LocalStorage(tmp_path / "stopped"), "training", "trial", config).checkpoints.complete()
    assert newest == stop_at - 1, "two updates take more than a minute"
    assert outcome(run(tmp_path / "stopped").storage, config, "training").same_bits(whole)
    assert steps[0] == stop_at, "it goes on after the checkpoint"
