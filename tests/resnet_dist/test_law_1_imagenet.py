"""Law 1 on the networks for ImageNet: two workers train like one, and in exact mode to the same bits."""

import functools

import pytest
import torch

from resnet_dist.configuration.training import TrainingConfig
from tests.small_runs import Trace, small_config, small_dataset, trace
from tests.worker_processes import run_workers

pytestmark = pytest.mark.integration

STEPS = 6
SIZE = 40


def config_of(exact: bool) -> TrainingConfig:
    return small_config(
        network__family="imagenet-residual",
        network__depth=18,
        network__shortcut="B",
        data__size=SIZE,
        data__batch_size=7,
        run__exact=exact,
        run__virtual_shards=2,
        solver__learning_rate=0.01,
    )


def traces() -> dict[bool, Trace]:
    dataset = small_dataset(train=35, test=11, size=SIZE)
    return {exact: trace(config_of(exact), dataset, STEPS) for exact in (False, True)}


@functools.cache
def of_workers(size: int) -> list[dict[bool, Trace]]:
    return run_workers(traces, size)


def test_two_workers_train_like_one_in_float64() -> None:
    one, first, second = of_workers(1)[0][False], *(found[False] for found in of_workers(2))
    assert len(set(one.losses)) == STEPS
    assert first.losses == pytest.approx(one.losses, rel=1e-9, abs=0)
    assert first.evaluation == pytest.approx(one.evaluation, rel=1e-9, abs=0)
    assert all(torch.equal(second.state[name], value) for name, value in first.state.items())


def test_two_workers_have_the_bits_of_one_in_exact_mode() -> None:
    one, two = of_workers(1)[0][True], of_workers(2)[0][True]
    assert two.losses == one.losses and two.evaluation == one.evaluation
    assert all(torch.equal(two.state[name], value) for name, value in one.state.items())
