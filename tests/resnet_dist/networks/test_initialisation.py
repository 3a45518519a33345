import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.cifar import ResidualNetwork
from resnet_dist.networks.construction import make_network
from resnet_dist.networks.initialisation import initialise
from resnet_dist.training.state import Training
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset

SEEDS = 150
Draws = dict[str, NDArray[np.float64]]


def weights(seed: int, **settings: object) -> dict[str, torch.Tensor]:
    config = NetworkConfig(**{"depth": 8, "width": 4, "shortcut": "B"} | settings)  # type: ignore[arg-type]
    network = ResidualNetwork(config, BatchNormConfig(), classes=10).double()
    initialise(network, config, seed)
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def pooled(preset: str) -> Draws:
    """Each parameter's numbers over many seeds, in one row."""
    runs = [weights(seed, initialisation=preset) for seed in range(SEEDS)]
    return {name: torch.stack([run[name].reshape(-1) for run in runs]).numpy().ravel() for name in runs[0]}


@pytest.fixture(scope="module")
def published() -> Draws:
    return pooled("published")


@pytest.fixture(scope="module")
def head() -> Draws:
    return pooled("head")


# Inputs to one output: channels times kernel, by the network's table at width 4.
FAN_IN = {
    "conv": 3 * 9,
    "blocks.0.conv1": 4 * 9,
    "blocks.0.conv2": 4 * 9,
    "blocks.1.conv1": 4 * 9,
    "blocks.1.conv2": 8 * 9,
    "blocks.1.shortcut.0": 4,
    "blocks.2.conv1": 8 * 9,
    "blocks.2.conv2": 16 * 9,
    "blocks.2.shortcut.0": 8,
}
FIRST_NORMS = ["blocks.0.norm1", "blocks.1.norm1", "blocks.2.norm1"]
OTHER_NORMS = [
    "norm",
    "blocks.0.norm2",
    "blocks.1.norm2",
    "blocks.2.norm2",
    "blocks.1.shortcut.1",
    "blocks.2.shortcut.1",
]


def assert_normal(values: NDArray[np.float64], mean: float, std: float) -> None:
    assert stats.kstest(values, "norm", args=(mean, std)).pvalue > 1e-4
    assert abs(values.mean() - mean) < 4 * std / math.sqrt(len(values))
    assert abs(values.std() / std - 1) < 4 / math.sqrt(2 * len(values))


def assert_uniform(values: NDArray[np.float64], low: float, high: float) -> None:
    assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 1e-4
    assert low <= values.min() and values.max() < high


@pytest.mark.parametrize("preset", ["published", "head"])
def test_the_lists_below_cover_every_parameter(preset: str, request: pytest.FixtureRequest) -> None:
    layers = {name.rpartition(".")[0] for name in request.getfixturevalue(preset)}
    assert layers == {*FAN_IN, *FIRST_NORMS, *OTHER_NORMS, "linear"}


@pytest.mark.parametrize("preset", ["published", "head"])
@pytest.mark.parametrize("layer", FAN_IN)
def test_convolutions_are_normal_with_variance_two_over_fan_in(
    layer: str, preset: str, request: pytest.FixtureRequest
) -> None:
    draws: Draws = request.getfixturevalue(preset)
    assert_normal(draws[f"{layer}.weight"], 0, math.sqrt(2 / FAN_IN[layer]))


@pytest.mark.parametrize("preset", ["published", "head"])
def test_biases_of_convolutions_and_batch_norm_are_zero(preset: str, request: pytest.FixtureRequest) -> None:
    draws: Draws = request.getfixturevalue(preset)
    assert not any(draws[f"{layer}.bias"].any() for layer in (*FAN_IN, *FIRST_NORMS, *OTHER_NORMS))


@pytest.mark.parametrize("preset", ["published", "head"])
def test_the_linear_layer_is_uniform_within_one_over_the_root_of_its_inputs(
    preset: str, request: pytest.FixtureRequest
) -> None:
    draws: Draws = request.getfixturevalue(preset)
    assert_uniform(draws["linear.weight"], -1 / 4, 1 / 4)  # 16 inputs
    assert_uniform(draws["linear.bias"], -1 / 4, 1 / 4)


@pytest.mark.parametrize("layer", FIRST_NORMS + OTHER_NORMS)
def test_published_scales_are_normal_about_one(layer: str, published: Draws) -> None:
    assert_normal(published[f"{layer}.weight"], 1, 0.002)


@pytest.mark.parametrize("layer", FIRST_NORMS)
def test_head_keeps_the_scales_of_each_blocks_first_batch_norm(layer: str, head: Draws, published: Draws) -> None:
    assert np.array_equal(head[f"{layer}.weight"], published[f"{layer}.weight"])


@pytest.mark.parametrize("layer", OTHER_NORMS)
def test_head_draws_all_other_scales_uniformly(layer: str, head: Draws) -> None:
    assert_uniform(head[f"{layer}.weight"], 0, 1)


@pytest.mark.parametrize("preset", ["published", "head"])
def test_no_two_numbers_come_from_the_same_draw(preset: str, request: pytest.FixtureRequest) -> None:
    # In units of its standard deviation, a number that two layers or two seeds share would occur twice, but for the
    # last few of its 16 digits.
    draws: Draws = request.getfixturevalue(preset)
    numbers = [draws[f"{layer}.weight"] / math.sqrt(2 / fan_in) for layer, fan_in in FAN_IN.items()]
    normal = np.concatenate([*numbers, *((draws[f"{layer}.weight"] - 1) / 0.002 for layer in FIRST_NORMS)])
    linear = np.concatenate([draws["linear.weight"], draws["linear.bias"]])
    for values in (normal.round(12), linear):
        assert len(values) - len(np.unique(values)) <= 2  # half a million numbers meet by chance once in ten such tests


def test_precision_does_not_change_the_draw() -> None:
    dataset = small_dataset()
    networks = [
        Training(small_config(run__precision=precision), dataset, alone("cpu")).network
        for precision in ("float32", "float64", "bfloat16")
    ]
    single, double, mixed = (network.state_dict() for network in networks)
    for name, value in single.items():
        assert value.dtype == mixed[name].dtype == torch.float32 and double[name].dtype == torch.float64
        assert torch.equal(value.double(), double[name]) and torch.equal(value, mixed[name])


def test_a_float32_network_takes_the_rounded_numbers_of_a_float64_one() -> None:
    config = NetworkConfig(depth=8, width=4)
    single = ResidualNetwork(config, BatchNormConfig(), classes=10)
    initialise(single, config, 1)
    for name, value in weights(1, shortcut="A").items():
        assert torch.equal(single.state_dict()[name], value.float())


def test_another_seed_draws_other_weights() -> None:
    first, again, other = weights(1), weights(1), weights(2)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, other[name]) == (name.endswith("bias") and name != "linear.bias")


def test_hidden_linear_layers_of_caffenet_are_drawn_as_convolutions_are_and_the_last_is_not() -> None:
    config = NetworkConfig(family="caffenet", depth=8, width=6, fully_connected=64)
    network = make_network(config, BatchNormConfig(), classes=100, size=67).double()
    initialise(network, config, seed=3)
    drawn = {name: parameter.detach().numpy().ravel() for name, parameter in network.named_parameters()}
    # Inputs to one output: conv2 and conv5 have two groups; 16 channels and one pixel are left before fc6.
    for layer, fan_in in {"conv1": 3 * 121, "conv2": 3 * 25, "conv5": 12 * 9, "fc6": 16, "fc7": 64}.items():
        assert_normal(drawn[f"{layer}.layer.weight"], 0, math.sqrt(2 / fan_in))
        assert not drawn[f"{layer}.layer.bias"].any()
    assert_uniform(drawn["linear.weight"], -1 / 8, 1 / 8)
    assert_uniform(drawn["linear.bias"], -1 / 8, 1 / 8)
