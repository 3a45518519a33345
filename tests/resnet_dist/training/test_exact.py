"""Exact mode: the same bits on any number of workers (law 1 without its rounding)."""

import functools
from typing import Any

import pytest
import torch

from resnet_dist.errors import ConfigurationError
from resnet_dist.training.exact import tree_combine, tree_sum
from resnet_dist.training.gradients import ExactGradients
from resnet_dist.training.state import Training
from resnet_dist.workers import Workers
from tests.small_runs import Trace, small_config, small_dataset, trace
from tests.worker_processes import run_workers

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"run__precision": "float32"},
    "bfloat16": {"run__precision": "bfloat16", "network__shortcut": "B"},
    "some shards empty": {"run__precision": "float32", "data__sampling": "permutation", "data__batch_size": 17},
    "accumulation": {"run__precision": "float32", "data__accumulation": 3, "data__batch_size": 32},
    "pre-activation, Adam": {"run__precision": "float32", "network__family": "preactivation", "solver__kind": "adam"},
}


def same_bits(a: Trace, b: Trace) -> bool:
    equal = all(torch.equal(a.state[name], b.state[name]) for name in a.state)
    return a.losses == b.losses and a.evaluation == b.evaluation and equal


STEPS = 8


def traces() -> dict[str, Trace]:
    dataset = small_dataset(test=21)
    return {
        name: trace(small_config(run__exact=True, **settings), dataset, STEPS) for name, settings in VARIANTS.items()
    }


@functools.cache
def of_workers(size: int) -> list[dict[str, Trace]]:
    return run_workers(traces, size)


@pytest.mark.integration
@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_number_of_workers_gives_the_same_bits(variant: str, size: int) -> None:
    (alone,) = of_workers(1)
    assert len(set(alone[variant].losses)) == STEPS
    for together in of_workers(size):
        assert same_bits(together[variant], alone[variant])


def test_without_exact_mode_sharding_changes_bits() -> None:
    """The comparison above can fail: ordinary mode, in which nothing is cut into shards, rounds differently."""
    dataset = small_dataset()
    ordinary = trace(small_config(run__precision="float32"), dataset, 6)
    exact = trace(small_config(run__precision="float32", run__exact=True), dataset, 6)
    assert not same_bits(ordinary, exact)
    assert ordinary.losses[0] == pytest.approx(exact.losses[0], rel=1e-5)


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_exact_mode_computes_what_ordinary_mode_computes(shards: int) -> None:
    dataset = small_dataset()
    ordinary = trace(small_config(), dataset, 20)
    exact = trace(small_config(run__exact=True, run__virtual_shards=shards), dataset, 20)
    assert exact.losses == pytest.approx(ordinary.losses, rel=1e-9)
    assert exact.evaluation == pytest.approx(ordinary.evaluation, rel=1e-9)


def test_more_workers_than_shards_are_refused() -> None:
    config = small_config(run__exact=True, run__virtual_shards=2)
    with pytest.raises(ConfigurationError, match=r"run\.virtual_shards: 2 shards cannot be shared by 3 workers"):
        Training(config, small_dataset(), Workers(0, 3, torch.device("cpu")))


def test_an_error_in_one_shard_ends_all() -> None:
    training = Training(small_config(run__exact=True), small_dataset(), Workers(0, 1, torch.device("cpu")))
    assert isinstance(training.gradients, ExactGradients)

    def loss_of(replica: torch.nn.Module, index: int) -> torch.Tensor:
        if index == 3:
            raise ZeroDivisionError
        return replica(torch.zeros(2, 3, 32, 32, dtype=torch.float64)).sum()  # type: ignore[no-any-return]

    with pytest.raises(ZeroDivisionError):
        training.gradients.shards.forward_backward(loss_of)


def test_the_tree_adds_in_pairs() -> None:
    parts = torch.tensor([[2.0**53], [1.0], [1.0], [-(2.0**53)]], dtype=torch.float64)
    assert tree_sum(parts).item() == 1.0  # (2^53 + 1) + (1 - 2^53): the first 1 is rounded away; in a row both are


def test_statistics_combine_with_empty_parts_between() -> None:
    samples = torch.randn(11, 3, dtype=torch.float64) + 1e3
    pieces = [samples[:4], samples[:0], samples[4:5], samples[5:]]
    counts = torch.tensor([[float(len(piece))] for piece in pieces], dtype=torch.float64)
    means = torch.stack([piece.mean(0) if len(piece) else torch.zeros(3).double() for piece in pieces])
    squares = torch.stack([((piece - mean) ** 2).sum(0) for piece, mean in zip(pieces, means, strict=True)])
    count, mean, square = tree_combine(counts, means, squares)
    assert count.item() == 11
    torch.testing.assert_close(mean, samples.mean(0))
    torch.testing.assert_close(square, ((samples - samples.mean(0)) ** 2).sum(0))
