from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm, combine, set_momentum
from resnet_dist.networks.cifar import ResidualNetwork
from tests.worker_processes import run_workers

CHANNELS = 3


# Statistics of a whole from those of its parts


def statistics(parts: Sequence[NDArray[np.float64]]) -> tuple[Tensor, Tensor, Tensor]:
    """Counts [W, 1], means and sums of squared deviations [W, C] of parts [n, C]; zeros where a part is empty."""
    counts = [[len(part)] for part in parts]
    means = [part.mean(0) if len(part) else np.zeros(CHANNELS) for part in parts]
    squares = [((part - mean) ** 2).sum(0) for part, mean in zip(parts, means, strict=True)]
    return torch.tensor(counts, dtype=torch.float64), torch.tensor(np.array(means)), torch.tensor(np.array(squares))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32),
)
def test_parts_combine_to_the_statistics_of_the_whole(sizes: list[int], mean: float, std: float, seed: int) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    parts = [random.normal(mean, std, (size, CHANNELS)) for size in sizes]
    whole = np.concatenate(parts)
    count, means, squares = combine(*statistics(parts))
    assert count == len(whole)
    rounding = 1e-15 * (abs(mean) + 10 * std)
    np.testing.assert_allclose(means.numpy(), whole.mean(0), rtol=0, atol=10 * rounding)
    reference = ((whole - whole.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(squares.numpy(), reference, rtol=1e-12, atol=len(whole) * 100 * std * rounding)


# One process


def layer_and_input(dtype: torch.dtype = torch.float64, **settings: Any) -> tuple[SynchronisedBatchNorm, Tensor]:
    generator = torch.Generator().manual_seed(1)
    layer = SynchronisedBatchNorm(CHANNELS, **settings).to(dtype)
    for value in layer.state_dict().values():
        value.copy_(1 + 0.3 * torch.rand(CHANNELS, generator=generator))
    return layer, (torch.randn(5, CHANNELS, 4, 4, generator=generator, dtype=torch.float64) * 2 + 1).to(dtype)


@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.1, 1.0])
def test_running_statistics_move_by_the_momentum_with_the_unbiased_variance(momentum: float) -> None:
    layer, images = layer_and_input(momentum=momentum)
    mean, variance = (value.clone().numpy() for value in (layer.running_mean, layer.running_var) if value is not None)
    out = layer(images)
    values = images.numpy().transpose(1, 0, 2, 3).reshape(CHANNELS, -1)
    assert layer.running_mean is not None and layer.running_var is not None
    expected_mean = (1 - momentum) * mean + momentum * values.mean(1)
    expected_variance = (1 - momentum) * variance + momentum * values.var(1, ddof=1)
    np.testing.assert_allclose(layer.running_mean.numpy(), expected_mean, rtol=1e-14)
    np.testing.assert_allclose(layer.running_var.numpy(), expected_variance, rtol=1e-14)
    normalised = (values - values.mean(1)[:, None]) / np.sqrt(values.var(1)[:, None] + 1e-5)
    expected = normalised * layer.weight.detach().numpy()[:, None] + layer.bias.detach().numpy()[:, None]
    actual = out.detach().numpy().transpose(1, 0, 2, 3).reshape(CHANNELS, -1)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_evaluation_uses_and_keeps_the_running_statistics() -> None:
    layer, images = layer_and_input(eps=1e-3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    out = layer.eval()(images)
    shape = (1, -1, 1, 1)
    scale = before["weight"] / torch.sqrt(before["running_var"] + 1e-3)
    expected = (images - before["running_mean"].view(shape)) * scale.view(shape) + before["bias"].view(shape)
    torch.testing.assert_close(out.detach(), expected, rtol=1e-13, atol=1e-13)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def small_network() -> ResidualNetwork:
    return ResidualNetwork(NetworkConfig(depth=8, width=2, shortcut="B"), BatchNormConfig(eps=1e-3), classes=10)


def test_momentum_is_set_in_every_layer() -> None:
    network = small_network()
    set_momentum(network, 0.25)
    momenta = [module.momentum for module in network.modules() if "BatchNorm" in type(module).__name__]
    assert momenta == [0.25] * 9


# Several processes


@dataclass(frozen=True)
class Outcome:
    """What a forward and backward pass through batch norm gave."""

    output: Tensor
    input_gradient: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    running_mean: Tensor
    running_var: Tensor


@dataclass(frozen=True)
class Case:
    """A gathered batch, how it is shared out, and in what precision and with what momentum."""

    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float64
    mean: float = 1.0
    std: float = 2.0
    momentum: float = 0.1

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images and the gradients of their outputs, [N, C, 4, 4], the same on every worker."""
        generator = torch.Generator().manual_seed(3)
        shape = (sum(self.sizes), CHANNELS, 4, 4)
        images, gradients = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        return (images * self.std + self.mean).to(self.dtype), gradients.to(self.dtype)

    def shard(self, whole: Tensor, rank: int) -> Tensor:
        start = sum(self.sizes[:rank])
        return whole[start : start + self.sizes[rank]]


def outcome(case: Case, images: Tensor, gradients: Tensor, statistics: torch.dtype) -> Outcome:
    layer, _ = layer_and_input(statistics, momentum=case.momentum)
    images = images.contiguous(memory_format=torch.channels_last).detach().requires_grad_()
    output = layer(images)
    output.backward(gradients)
    assert images.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    assert layer.running_mean is not None and layer.running_var is not None
    return Outcome(
        output.detach(), images.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var
    )


def shard_outcomes(cases: list[Case]) -> list[Outcome]:
    """Run on each worker: its shard of each case."""
    rank = dist.get_rank()
    outcomes = []
    for case in cases:
        images, gradients = (case.shard(whole, rank) for whole in case.batch())
        outcomes.append(outcome(case, images, gradients, case.dtype if case.dtype.itemsize > 2 else torch.float32))
    return outcomes


def reference(case: Case) -> Outcome:
    """torch's batch norm on the gathered batch, in float64 from the same numbers."""
    images, gradients = (whole.double() for whole in case.batch())
    layer, _ = layer_and_input(case.dtype if case.dtype.itemsize > 2 else torch.float32)
    state = {name: value.double() for name, value in layer.state_dict().items()}
    images.requires_grad_()
    weight, bias = (state[name].detach().requires_grad_() for name in ("weight", "bias"))
    output = F.batch_norm(
        images, state["running_mean"], state["running_var"], weight, bias, training=True, momentum=case.momentum
    )
    output.backward(gradients)
    assert images.grad is not None and weight.grad is not None and bias.grad is not None
    running = (state["running_mean"], state["running_var"])
    return Outcome(output.detach(), images.grad, weight.grad, bias.grad, *running)


def assert_shards_equal(case: Case, shards: list[Outcome], tolerance: float, of_statistics: float) -> None:
    whole = reference(case)
    together = Outcome(
        torch.cat([shard.output for shard in shards]),
        torch.cat([shard.input_gradient for shard in shards]),
        torch.stack([shard.weight_gradient for shard in shards]).sum(0),
        torch.stack([shard.bias_gradient for shard in shards]).sum(0),
        shards[0].running_mean,
        shards[0].running_var,
    )
    for shard in shards[1:]:
        assert torch.equal(shard.running_mean, shards[0].running_mean)
        assert torch.equal(shard.running_var, shards[0].running_var)
    for name in ("output", "input_gradient", "weight_gradient", "bias_gradient", "running_mean", "running_var"):
        bound = of_statistics if name.startswith("running") else tolerance
        value, expected = getattr(together, name).double(), getattr(whole, name)
        # Relative to the largest: single values come near zero by cancellation.
        difference = ((value - expected).abs().max() / expected.abs().max()).item()
        assert difference <= bound, f"{case}: {name} differs by {difference}"


SHARDS = [(3, 2), (5, 0), (0, 4), (1, 1), (4, 1, 0), (1, 0, 0), (2, 3, 4)]


@pytest.mark.integration
@pytest.mark.parametrize("workers", [2, 3])
def test_shards_of_any_size_give_what_the_gathered_batch_gives_in_float64(workers: int) -> None:
    cases = [
        Case(sizes, momentum=momentum) for sizes in SHARDS if len(sizes) == workers for momentum in (0.0, 0.1, 1.0)
    ]
    results = run_workers(shard_outcomes, workers, cases)
    for case, *shards in zip(cases, *results, strict=True):
        assert_shards_equal(case, shards, tolerance=1e-12, of_statistics=1e-12)


@pytest.mark.integration
def test_a_large_mean_does_not_cancel_a_small_variance_in_float32() -> None:
    cases = [Case((40, 23), torch.float32, mean=1e3, std=1.0, momentum=1.0), Case((0, 63), torch.float32, 1e3, 1.0)]
    results = run_workers(shard_outcomes, 2, cases)
    for case, *shards in zip(cases, *results, strict=True):
        # A float32 near 1000 has steps of 6e-5. A variance from squares about zero would be off by several per cent.
        assert_shards_equal(case, shards, tolerance=5e-4, of_statistics=1e-5)


@pytest.mark.integration
def test_bfloat16_images_have_float32_statistics() -> None:
    cases = [Case((40, 23), torch.bfloat16), Case((63, 0), torch.bfloat16)]
    results = run_workers(shard_outcomes, 2, cases)
    for case, *shards in zip(cases, *results, strict=True):
        for shard in shards:
            assert shard.output.dtype == shard.input_gradient.dtype == torch.bfloat16
            assert shard.running_var.dtype == shard.weight_gradient.dtype == torch.float32
        # Outputs and gradients are rounded to eight binary digits; statistics and sums are not.
        assert_shards_equal(case, shards, tolerance=2**-8, of_statistics=1e-5)


# The gradient of the whole computation by finite differences. On every worker alike it is a function of the gathered
# batch: shares are cut out of it, normalised together, and put together again. What cuts and joins carries gradients
# as automatic differentiation would, so that `gradcheck` differentiates one function in step on all workers.


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, start: int, stop: int) -> Tensor:
        ctx.start, ctx.stop, ctx.shape = start, stop, whole.shape
        return whole[start:stop].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        whole = grads[0].new_zeros(ctx.shape)
        whole[ctx.start : ctx.stop] = grads[0]
        dist.all_reduce(whole)
        return whole, None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, start: int, stop: int, size: int) -> Tensor:
        ctx.start, ctx.stop = start, stop
        whole = part.new_zeros(size, *part.shape[1:])
        whole[start:stop] = part
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][ctx.start : ctx.stop].clone(), None, None, None


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor) -> Tensor:
        return parameter.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def gradients_are_right(sizes: tuple[int, ...]) -> bool:
    """Run on each worker: `gradcheck` of batch norm over shards of these sizes."""
    start = sum(sizes[: dist.get_rank()])
    stop = start + sizes[dist.get_rank()]
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(sum(sizes), 2, 2, 1, generator=generator, dtype=torch.float64).requires_grad_()
    weight, bias = (torch.rand(2, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))

    def batch_norm(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        layer = SynchronisedBatchNorm(2).double()
        del layer.weight, layer.bias
        layer.weight, layer.bias = _Share.apply(weight), _Share.apply(bias)
        return _Join.apply(layer(_Cut.apply(images, start, stop)), start, stop, sum(sizes))  # type: ignore[no-any-return]

    return torch.autograd.gradcheck(batch_norm, (images, weight, bias), atol=1e-7, rtol=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize("sizes", [(3, 2), (4, 0), (1, 1), (2, 0, 1)])
def test_gradients_are_those_of_finite_differences(sizes: tuple[int, ...]) -> None:
    assert all(run_workers(gradients_are_right, len(sizes), sizes))
