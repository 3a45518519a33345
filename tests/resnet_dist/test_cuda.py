"""Law 1 and batch norm on CUDA. Workers share one GPU here, over gloo, since NCCL wants a GPU for each.

Skipped without a GPU; `docs/testing.md` says whether it has been run.
"""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from resnet_dist.batch_norm import synchronised
from resnet_dist.exact import tree_sum
from resnet_dist.training import Training
from resnet_dist.workers import Workers
from tests.resnet_dist.test_batch_norm import Case, Outcome, assert_shards_equal, layer_and_input
from tests.small_runs import small_config, small_dataset
from tests.worker_processes import run_workers

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

DEVICE = torch.device("cuda", 0)


def outcomes_on_cuda(cases: list[Case]) -> list[Outcome]:
    """Run on each worker: forward and backward of its shard of each case through what networks have on CUDA."""
    rank, outcomes = dist.get_rank(), []
    for case in cases:
        layer = synchronised(layer_and_input(case.dtype, momentum=case.momentum)[0].to(DEVICE), DEVICE)
        assert isinstance(layer, torch.nn.SyncBatchNorm)
        images, gradients = (case.shard(whole, rank).to(DEVICE) for whole in case.batch())
        images = images.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
        output = layer(images)
        output.backward(gradients)
        of_layer = (layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var)
        parts = (output.detach(), images.grad, *of_layer)
        outcomes.append(Outcome(*(part.cpu() for part in parts if part is not None)))
    return outcomes


def test_shards_of_any_size_give_what_the_gathered_batch_gives_in_float64() -> None:
    shards = [(3, 2), (5, 0), (0, 4), (1, 1)]
    cases = [Case(sizes, momentum=momentum) for sizes in shards for momentum in (0.0, 0.1, 1.0)]
    for case, *parts in zip(cases, *run_workers(outcomes_on_cuda, 2, cases), strict=True):
        assert_shards_equal(case, parts, tolerance=1e-12, of_statistics=1e-12)


def test_a_large_mean_does_not_cancel_a_small_variance_in_float32() -> None:
    cases = [Case((40, 23), torch.float32, mean=1e3, std=1.0, momentum=1.0)]
    for case, *parts in zip(cases, *run_workers(outcomes_on_cuda, 2, cases), strict=True):
        assert_shards_equal(case, parts, tolerance=5e-4, of_statistics=1e-5)


def losses(settings: dict[str, Any], steps: int) -> list[float]:
    """Run on each worker: the loss of each step's whole batch."""
    workers = Workers(dist.get_rank(), dist.get_world_size(), DEVICE)
    training = Training(small_config(**settings), small_dataset(train=91, test=21), workers)
    curve = []
    for _ in range(steps):
        training.start_epoch()
        curve.append(tree_sum(workers.sum(training.update().clone())).item())
    return curve


@pytest.mark.parametrize("momentum", [0.1, "dynamic"])
@pytest.mark.parametrize("sampling", ["replacement", "permutation"])  # the latter ends with workers without a sample
def test_workers_train_like_one_in_float64(sampling: str, momentum: float | str) -> None:
    settings = {
        "run__epochs": 100,
        "data__batch_size": 10,
        "data__sampling": sampling,
        "batch_norm__momentum": momentum,
    }
    (one,) = run_workers(losses, 1, settings, 50)
    for several in run_workers(losses, 2, settings, 50):
        assert several == pytest.approx(one, rel=1e-9, abs=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_exact_mode_gives_the_same_bits_on_any_number_of_workers(precision: str) -> None:
    settings = {"run__epochs": 100, "run__exact": True, "run__precision": precision}
    (one,) = run_workers(losses, 1, settings, 8)
    assert len(set(one)) == 8
    for size in (2, 3):
        assert run_workers(losses, size, settings, 8) == [one] * size
