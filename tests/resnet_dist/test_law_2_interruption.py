"""Law 2: an interruption does not change the result.

A run killed with SIGKILL at any moment, as often as one likes, and resumed is the run that was left alone: the same
weights, metrics lines and TensorBoard points, bit for bit.
"""

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.storage.local import LocalStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.records.recorder import Recorder
from resnet_dist.training.loop import train
from resnet_dist.workers import alone
from tests.killed_runs import EXPERIMENT, NAME, Moment, Outcome, attempt, outcome
from tests.small_runs import small_config, small_dataset

# Batches of 16: three and a half an epoch, so that with replacement epochs have 4 and 3 steps, and a permutation's
# end with a batch of 8.
DATASET = small_dataset(train=56, test=10)

SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "rmsprop": {"solver__kind": "rmsprop", "batch_norm__momentum": "dynamic"},
    "adagrad": {"solver__kind": "adagrad"},
    "adadelta": {"solver__kind": "adadelta", "data__accumulation": 2},
}
WARM_UP: dict[str, dict[str, Any]] = {"no warm-up": {}, "warm-up": {"schedule__warmup_iterations": 3}}
SAMPLING = ("replacement", "permutation")
VARIANTS = {
    f"{solver}, {warm_up}, {sampling}": {**SOLVERS[solver], **WARM_UP[warm_up], "data__sampling": sampling}
    for solver, warm_up, sampling in itertools.product(SOLVERS, WARM_UP, SAMPLING)
}
VARIANTS["adamw, warm-up, cosine, pre-activation, clipping, average, mixup"] = {
    "solver__kind": "adamw",
    "solver__gradient_clip": 0.5,
    "solver__average_decay": 0.9,
    "schedule__warmup_shape": "linear",
    "data__mixup": 0.4,
    "data__cutout": 8,
    "data__colour": 0.3,
    "schedule__kind": "cosine",
    "schedule__warmup_iterations": 3,
    "network__family": "preactivation",
}


def config_of(variant: str, **more: Any) -> TrainingConfig:
    defaults = {"run__precision": "float32", "run__checkpoint_steps": 2, "run__summary_steps": 2}
    defaults["run__histogram_epochs"] = 1
    return small_config(**(defaults | VARIANTS[variant] | more))


def moments(workers: int = 1) -> st.SearchStrategy[Moment]:
    """Moments in the life of a process; each of them comes in a run from its beginning.

    Hypothesis begins with what stands first: a kill after step 3, when the checkpoint of step 2 is there to go on from.
    """
    return st.one_of(
        st.builds(Moment, st.just("step"), st.sampled_from([3, 4, 5, 6, 7, 1, 2]), st.integers(0, workers - 1)),
        st.builds(Moment, st.just("evaluation"), st.integers(1, 2), st.integers(0, workers - 1)),
        st.builds(Moment, st.just("half written"), st.integers(1, 17)),
        st.builds(Moment, st.sampled_from(["before write", "after write"]), st.integers(1, 26)),
    )


@functools.cache
def undisturbed(config: TrainingConfig, workers: int = 1) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        assert attempt(config, Path(directory), workers, dataset=DATASET)
        return outcome(LocalStorage(directory), config)


def killed_and_resumed(config: TrainingConfig, kills: list[Moment], workers: int = 1) -> tuple[Outcome, int]:
    """What comes of a run that is killed at these moments, and the step of the checkpoint from which its last attempt
    goes on, 0 without one.
    """
    last_step = undisturbed(config, workers).lines[-1]["step"]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        assert not attempt(config, root, workers, kills[0], DATASET), "the first process was not killed"
        for moment in kills[1:]:
            attempt(config, root, workers, moment, DATASET)  # what is left to do may be over before the moment
        step = max((int(path.parent.name) for path in root.rglob("checkpoints/*/manifest.json")), default=0)
        # Only a run that goes on from an earlier step has one more than are left.
        one_too_many = Moment("step", last_step - step + 1)
        assert attempt(config, root, workers, one_too_many, DATASET), f"it did not go on from step {step}"
        return outcome(LocalStorage(root), config), step


def require_law_2(config: TrainingConfig, workers: int, most_kills: int) -> None:
    """Kill runs at any moments and hold them to the one left alone. One of them, at least, has a checkpoint."""
    steps = []

    @settings(max_examples=2, database=None)
    @given(st.lists(moments(workers), min_size=1, max_size=most_kills))
    def check(kills: list[Moment]) -> None:
        found, step = killed_and_resumed(config, kills, workers)
        steps.append(step)
        assert found.same_bits(undisturbed(config, workers))

    check()
    assert 2 in steps, "no run had a checkpoint to go on from"


@pytest.mark.integration
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_at_any_moments_is_the_run_left_alone(variant: str) -> None:
    require_law_2(config_of(variant), workers=1, most_kills=3)


@pytest.mark.integration
@pytest.mark.parametrize("variant", [next(name for name in VARIANTS if name.startswith(solver)) for solver in SOLVERS])
def test_two_workers_killed_at_any_moments_are_the_two_left_alone(variant: str) -> None:
    require_law_2(config_of(variant), workers=2, most_kills=2)


@pytest.mark.integration
def test_a_run_whose_records_are_sent_in_the_background_is_killed_and_goes_on(tmp_path: Path) -> None:
    config = config_of("sgd, warm-up, permutation")
    for moment in (Moment("step", 3), Moment("after write", 2), Moment("half written", 3)):
        assert not attempt(config, tmp_path, moment=moment, dataset=DATASET, remote=True)
    attempt(config, tmp_path, moment=Moment("step", 2), dataset=DATASET, remote=True)
    # From step 2 on six are left: only a run that begins anew has a seventh.
    assert attempt(config, tmp_path, moment=Moment("step", 7), dataset=DATASET, remote=True)
    assert outcome(LocalStorage(tmp_path), config).same_bits(undisturbed(config))


@pytest.mark.integration
def test_a_run_goes_on_from_a_checkpoint_that_waits_to_be_sent(tmp_path: Path) -> None:
    config, manifest = config_of("sgd, warm-up, permutation"), "checkpoints/0000000002/manifest.json"
    moment = Moment("before write", 1, key=manifest)
    assert not attempt(config, tmp_path, moment=moment, dataset=DATASET, remote=True)
    assert list(tmp_path.rglob("state.pt")) and not list(tmp_path.rglob("manifest.json"))
    # From step 2 on six are left, as above.
    assert attempt(config, tmp_path, moment=Moment("step", 7), dataset=DATASET, remote=True)
    assert outcome(LocalStorage(tmp_path), config).same_bits(undisturbed(config))


@pytest.mark.integration
@pytest.mark.parametrize("sampling", SAMPLING)
def test_in_exact_mode_a_run_goes_on_with_any_number_of_workers_to_the_same_bits(sampling: str, tmp_path: Path) -> None:
    config = config_of(f"sgd, warm-up, {sampling}", run__exact=True, run__virtual_shards=4)
    assert resumed_on(config, (1, 3, 2), tmp_path).same_bits(undisturbed(config))


@pytest.mark.integration
def test_in_float64_a_run_goes_on_with_any_number_of_workers_to_the_same_numbers(tmp_path: Path) -> None:
    config = config_of("sgd, warm-up, permutation", run__precision="float64")
    expected, actual = undisturbed(config), resumed_on(config, (2, 1, 3), tmp_path)
    for name, value in expected.weights.items():
        torch.testing.assert_close(actual.weights[name], value, rtol=1e-9, atol=1e-11)
    assert not actual.same_bits(expected), "no worker count differed"
    for line, other in zip(actual.lines, expected.lines, strict=True):
        assert line == pytest.approx(other, rel=1e-9)


def resumed_on(config: TrainingConfig, workers: tuple[int, int, int], root: Path) -> Outcome:
    """A run that is killed inside its first epoch and inside its second, on as many workers as given in turn."""
    first, second, third = workers
    assert not attempt(config, root, first, Moment("step", 3), DATASET)
    assert not attempt(config, root, second, Moment("step", 4), DATASET)  # from step 2 to step 6
    # From step 4 on four are left at most: only a run that begins anew has a fifth.
    assert attempt(config, root, third, Moment("step", 5), DATASET)
    return outcome(LocalStorage(root), config)


class Interrupted(BaseException):
    """Ends a run where it stands, without a process of its own."""


def run(config: TrainingConfig, root: Path, stop_at: int | None = None, steps: list[int] | None = None) -> Recorder:
    """A run of `config` with its records below `root`, ended after step `stop_at`; `steps` takes those it makes."""

    def on_step(step: int, loss: object) -> None:
        if steps is not None:
            steps.append(step)
        if step == stop_at:
            raise Interrupted

    recorder = Recorder(LocalStorage(root), EXPERIMENT, NAME, config)
    try:
        train(config, DATASET, alone("cpu"), recorder, on_step=on_step)
    except Interrupted:
        assert stop_at is not None
    return recorder


@pytest.mark.parametrize("stop_at", [3, 4, 6])  # inside the first epoch, at its end, inside the second
@pytest.mark.parametrize("variant", ["sgd, warm-up, permutation", "rmsprop, no warm-up, replacement"])
def test_a_run_resumes_within_one_process(variant: str, stop_at: int, tmp_path: Path) -> None:
    config = config_of(variant)
    run(config, tmp_path / "alone")
    run(config, tmp_path / "stopped", stop_at)
    steps: list[int] = []
    resumed = run(config, tmp_path / "stopped", steps=steps)
    assert steps[0] == (stop_at - 1) // 2 * 2 + 1, "the run was not resumed"
    expected = outcome(LocalStorage(tmp_path / "alone"), config)
    assert outcome(resumed.storage, config).same_bits(expected)


def test_the_comparison_covers_every_kind_of_summary(tmp_path: Path) -> None:
    config = config_of("sgd, no warm-up, replacement")
    run(config, tmp_path)
    tags = {tag for _, tag, _, _ in outcome(LocalStorage(tmp_path), config).events}
    assert tags >= {"_hparams_/session_start_info", "_hparams_/session_end_info", "custom_scalars__config__"}
    assert tags >= {"view/samples", "view/confusion", "view_weights/linear", "view_gradients/linear", "test/top1_error"}


def test_the_comparison_sees_a_difference_in_the_last_bit(tmp_path: Path) -> None:
    config = config_of("sgd, no warm-up, replacement")
    run(config, tmp_path)
    found, other = (outcome(LocalStorage(tmp_path), config) for _ in range(2))
    assert found.same_bits(other)
    weight = next(iter(other.weights.values()))
    weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], weight.new_tensor(torch.inf))
    assert not found.same_bits(other)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = config_of("sgd, no warm-up, replacement")
    first = run(config, tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    run(config, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == files
    assert first.checkpoints.complete() == []
