"""The laws on a GPU, in a few minutes. Workers share one GPU here, over gloo, since NCCL wants a GPU for each.

Skipped without a GPU; `docs/testing.md` says whether it has been run. What of it can be rehearsed on a CPU is rehearsed
in `test_pretended_cuda.py`.
"""

import functools
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cluster.storage.local import LocalStorage
from resnet_dist.records import checkpoints
from resnet_dist.training import captured
from resnet_dist.training.numerics import own_stream, settings_of_run
from resnet_dist.training.state import Training
from resnet_dist.workers import alone, current
from tests.gpu_process_runs import assert_bits_of_each_alone, gpu_process
from tests.killed_runs import Moment, attempt, outcome
from tests.resnet_dist.networks.test_batch_norm import SHARDS, Case, Outcome, assert_shards_equal, layer_and_input
from tests.resnet_dist.test_law_1_worker_count import FLOOR_STEPS, ORDERS, VARIANTS, distances, reordered
from tests.resnet_dist.training import test_captured
from tests.small_runs import Trace, small_config, small_dataset, trace_of
from tests.worker_processes import run_workers

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

DEVICE = torch.device("cuda", 0)
STEPS = 50


def outcomes_on_cuda(cases: list[Case]) -> list[Outcome]:
    """Run on each worker: forward and backward of its shard of each case."""
    rank, outcomes = dist.get_rank(), []
    for case in cases:
        statistic = case.dtype if case.dtype.itemsize > 2 else torch.float32
        layer = layer_and_input(statistic, momentum=case.momentum)[0].to(DEVICE)
        images, gradients = (case.shard(whole, rank).to(DEVICE) for whole in case.batch())
        images = images.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
        output = layer(images)
        output.backward(gradients)
        of_layer = (layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var)
        parts = (output.detach(), images.grad, *of_layer)
        outcomes.append(Outcome(*(part.cpu() for part in parts if part is not None)))
    return outcomes


@pytest.mark.parametrize("workers", [2, 3])
def test_shards_of_any_size_give_what_the_gathered_batch_gives_in_float64(workers: int) -> None:
    shards = [sizes for sizes in SHARDS if len(sizes) == workers]
    cases = [Case(sizes, momentum=momentum) for sizes in shards for momentum in (0.0, 0.1, 1.0)]
    for case, *parts in zip(cases, *run_workers(outcomes_on_cuda, workers, cases), strict=True):
        assert_shards_equal(case, parts, tolerance=1e-12, of_statistics=1e-12)


def test_a_large_mean_does_not_cancel_a_small_variance_in_float32() -> None:
    cases = [Case((40, 23), torch.float32, mean=1e3, std=1.0, momentum=1.0), Case((0, 63), torch.float32, 1e3, 1.0)]
    for case, *parts in zip(cases, *run_workers(outcomes_on_cuda, 2, cases), strict=True):
        assert_shards_equal(case, parts, tolerance=5e-4, of_statistics=1e-5)


def test_bfloat16_images_have_float32_statistics() -> None:
    cases = [Case((40, 23), torch.bfloat16), Case((63, 0), torch.bfloat16)]
    for case, *parts in zip(cases, *run_workers(outcomes_on_cuda, 2, cases), strict=True):
        assert_shards_equal(case, parts, tolerance=2**-8, of_statistics=1e-5)


def traces(settings: dict[str, dict[str, Any]], steps: int, own_gpu: bool = False) -> dict[str, Trace]:
    """Run on each worker: what it computes of each of several runs."""
    gpu = torch.device("cuda", dist.get_rank() if own_gpu else 0)
    dataset = small_dataset(train=91, test=21)
    return {
        name: trace_of(small_config(**more), dataset, steps, current("cuda", gpu)) for name, more in settings.items()
    }


IN_FLOAT64 = {name: {"run__epochs": 100, "data__batch_size": 8} | settings for name, settings in VARIANTS.items()}


@functools.cache
def one_in_float64() -> dict[str, Trace]:
    (one,) = run_workers(traces, 1, IN_FLOAT64, STEPS)
    return one  # type: ignore[no-any-return]


def assert_alike(several: list[dict[str, Trace]]) -> None:
    for together in several:
        for name, one in one_in_float64().items():
            assert together[name].losses == pytest.approx(one.losses, rel=1e-9, abs=0), name
            assert together[name].evaluation == pytest.approx(one.evaluation, rel=1e-9, abs=0), name


@pytest.mark.parametrize("size", [2, 3])
def test_workers_train_like_one_in_float64(size: int) -> None:
    assert_alike(run_workers(traces, size, IN_FLOAT64, STEPS))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL wants a GPU for each worker, and this machine has one")
def test_workers_with_a_gpu_each_train_like_one_over_nccl() -> None:
    assert_alike(run_workers(traces, 2, IN_FLOAT64, STEPS, True, backend="nccl"))


def curves(order: str | None, seeds: int) -> list[list[float]]:
    """Float32 loss curves over several seeds, with the samples inside each batch in another order if so wanted."""
    found = []
    for seed in range(seeds):
        config = small_config(run__precision="float32", run__epochs=100, run__seed=seed)
        with settings_of_run(exact=False), own_stream(DEVICE, exact=False):
            workers = current("cuda")
            training = reordered(Training(config, small_dataset(), workers), order)
            curve = []
            for _ in range(FLOOR_STEPS):
                training.start_epoch()
                curve.append(workers.sum(training.update().clone()).item())
            found.append(curve)
    return found


def test_in_float32_the_difference_does_not_exceed_the_rounding_floor() -> None:
    (one,) = run_workers(curves, 1, None, 4)
    several = distances(one, run_workers(curves, 2, None, 4)[0])
    floor = [value for order in ORDERS for value in distances(one, run_workers(curves, 1, order, 4)[0])]
    assert 1e-7 < statistics.median(floor) < 0.1, "nothing to compare with"
    assert statistics.median(several) <= 3 * statistics.median(floor)
    assert max(several) <= 10 * max(floor)


def test_exact_mode_gives_the_same_bits_on_any_number_of_workers() -> None:
    base = {"run__epochs": 100, "run__exact": True}
    settings = {precision: base | {"run__precision": precision} for precision in ("float32", "bfloat16")}
    (one,) = run_workers(traces, 1, settings, 8)
    for size in (2, 3):
        for several in run_workers(traces, size, settings, 8):
            for precision, alone_ in one.items():
                assert len(set(alone_.losses)) == 8
                assert several[precision].losses == alone_.losses
                assert all(torch.equal(value, alone_.state[name]) for name, value in several[precision].state.items())


def test_bfloat16_is_computed_in_bfloat16_and_near_float32() -> None:
    of = {
        precision: trace_of(small_config(run__precision=precision), small_dataset(), 4, alone("cuda"))
        for precision in ("float32", "bfloat16")
    }
    assert of["bfloat16"].losses != of["float32"].losses
    assert of["bfloat16"].losses == pytest.approx(of["float32"].losses, rel=0.05)


@pytest.mark.parametrize("variant", test_captured.VARIANTS)
def test_captured_updates_have_the_bits_of_eager_ones(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "CHUNK", 4)
    settings = test_captured.DATA | test_captured.VARIANTS[variant]
    dataset = small_dataset(train=test_captured.IMAGES, test=5)
    ways = []
    for graph in (False, True):
        with settings_of_run(exact=False), own_stream(DEVICE, exact=False):
            training = Training(small_config(**settings, run__cuda_graph=graph), dataset, alone("cuda"))
            ways.append((training, test_captured.trained(training, training.total_steps)))
    (eager, eager_losses), (replayed, losses) = ways
    assert isinstance(replayed.updates, captured.CapturedUpdates) and not isinstance(
        eager.updates, type(replayed.updates)
    )
    assert losses == eager_losses
    test_captured.assert_same_bits(eager, replayed)


def test_runs_side_by_side_have_the_bits_that_they_have_alone() -> None:
    dataset = small_dataset()

    def losses(seed: int) -> list[float]:
        with own_stream(DEVICE, exact=False):
            config = small_config(run__seed=seed, run__epochs=9, run__precision="float32")
            training = Training(config, dataset, alone("cuda"))
            return test_captured.trained(training, training.total_steps)

    with settings_of_run(exact=False):
        expected = [losses(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(losses, range(4))) == expected
    assert len({tuple(curve) for curve in expected}) == 4


def test_unlike_runs_of_a_gpus_process_have_the_bits_that_each_has_alone(tmp_path: Path) -> None:
    with gpu_process() as process:
        assert_bits_of_each_alone(process, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("exact", [False, True])
def test_a_run_that_is_killed_and_goes_on_has_the_same_bits(exact: bool, workers: int, tmp_path: Path) -> None:
    settings = {"run__precision": "float32", "run__checkpoint_steps": 2, "run__histogram_epochs": 1}
    config = small_config(run__device="cuda", run__exact=exact, **settings)
    dataset = small_dataset(train=56, test=10)
    assert attempt(config, tmp_path / "undisturbed", workers, dataset=dataset)
    killed = tmp_path / "killed"
    assert not attempt(config, killed, workers, Moment("step", 3, rank=workers - 1), dataset)
    assert not attempt(config, killed, workers, Moment("step", 4), dataset)
    # From step 4 on three are left: only a run that begins anew has a fifth.
    assert attempt(config, killed, workers, Moment("step", 5), dataset)
    undisturbed, found = (outcome(LocalStorage(place), config) for place in (tmp_path / "undisturbed", killed))
    for line in (*undisturbed.lines, *found.lines):
        line.pop("energy_joules", None)  # a measurement, as times are
    assert found.lines == undisturbed.lines
    assert found.same_bits(undisturbed)


def test_the_first_updates_of_the_studys_network_are_the_cpus_in_float64() -> None:
    config = small_config(network__depth=20, network__width=16, data__batch_size=32, schedule__warmup_iterations=2)
    traces = [trace_of(config, small_dataset(), 4, alone(device)) for device in ("cpu", "cuda")]
    on_cpu, on_gpu = traces
    assert on_gpu.losses[0] == pytest.approx(on_cpu.losses[0], rel=1e-13)
    for name, value in on_cpu.state.items():
        torch.testing.assert_close(on_gpu.state[name], value, rtol=1e-10, atol=1e-10, msg=name)
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=1e-10)


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_of_one_device_loads_on_the_other(first: str, second: str) -> None:
    config, dataset = small_config(), small_dataset()
    with settings_of_run(exact=False), own_stream(DEVICE, exact=False):
        whole, begun, resumed = (Training(config, dataset, alone(device)) for device in (first, first, second))
        for training, steps in ((whole, 8), (begun, 3)):
            for _ in range(steps):
                training.start_epoch()
                training.update()
        resumed.load(checkpoints.decode(checkpoints.encode(begun.state())))
        for _ in range(5):
            resumed.start_epoch()
            resumed.update()
    assert resumed.epoch_losses() == pytest.approx(whole.epoch_losses(), rel=1e-9)
