from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.blocks import SubsampledIdentity
from resnet_dist.networks.cifar import Block, ResidualNetwork
from resnet_dist.networks.construction import make_network, parameter_count
from tests.naive_network import NaiveNetwork

RESIDUAL = [
    {"shortcut": option, "relu_after_addition": relu, "batch_norm_position": position}
    for option in "ABC"
    for relu in (True, False)
    for position in ("before", "after")
]
PLAIN: list[dict[str, Any]] = [{"family": "plain", "relu_after_addition": relu} for relu in (True, False)]
PREACTIVATION: list[dict[str, Any]] = [{"family": "preactivation", "shortcut": option} for option in "ABC"]


def words(settings: dict[str, Any]) -> str:
    return ", ".join(str(value) for value in settings.values())


def network_of(settings: dict[str, Any], depth: int = 14, width: int = 3, classes: int = 7) -> nn.Module:
    return make_network(NetworkConfig(depth=depth, width=width, **settings), BatchNormConfig(), classes)


def randomise(module: nn.Module, seed: int = 1) -> None:
    """Give every parameter and running statistic a value at which a mistake in its use would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        draw = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            draw = 0.5 + draw.abs()
        elif value.ndim > 1:
            draw = draw / value[0].numel() ** 0.5
        value.copy_(draw)


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@dataclass
class Comparison:
    """The network under test and the naive one after the same forward and backward pass."""

    network: nn.Module
    outputs: dict[str, Tensor]
    images: Tensor
    naive: NaiveNetwork
    naive_images: Tensor


def compared(settings: dict[str, Any], training: bool) -> Comparison:
    network = network_of(settings).double().train(training)
    randomise(network)
    naive = NaiveNetwork(
        {name: value.detach().clone().requires_grad_() for name, value in network.state_dict().items()},
        n=2,
        width=3,
        option="none" if settings.get("family") == "plain" else settings["shortcut"],
        relu_after_addition=settings.get("relu_after_addition", True),
        norm_after_addition=settings.get("batch_norm_position") == "after",
        training=training,
        preactivation=settings.get("family") == "preactivation",
    )
    outputs: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
    images, naive_images = (random_images(2, 3, 32, 32).requires_grad_() for _ in range(2))
    weights = random_images(2, 7)
    (network(images) * weights).sum().backward()
    (naive(naive_images) * weights).sum().backward()
    return Comparison(network, outputs, images, naive, naive_images)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("settings", RESIDUAL + PLAIN + PREACTIVATION, ids=words)
def test_every_layer_and_gradient_equals_the_naive_networks(settings: dict[str, Any], training: bool) -> None:
    result = compared(settings, training)
    layers = result.outputs.keys() - {"", "blocks"}
    assert layers == result.naive.outputs.keys()
    for name in layers:
        assert_close(result.outputs[name], result.naive.outputs[name], name)
    for name, parameter in result.network.named_parameters():
        assert_close(parameter.grad, result.naive.parameters[name].grad, f"gradient of {name}")
    assert_close(result.images.grad, result.naive_images.grad, "gradient of the images")


def assert_close(value: Tensor | None, reference: Tensor | None, name: str) -> None:
    assert value is not None and reference is not None, name
    # Gradients that are zero but for rounding, those of biases before a batch norm, are held to the absolute bound.
    torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-10, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(4, 8, 2), (8, 8, 1)])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_block_with_option_b_is_torchvisions(
    in_channels: int, out_channels: int, stride: int, training: bool
) -> None:
    block = Block(in_channels, out_channels, stride, NetworkConfig(shortcut="B"), BatchNormConfig()).double()
    randomise(block)
    downsample = None
    if stride == 2:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    reference = BasicBlock(in_channels, out_channels, stride, downsample).double()
    state = {}
    for name, value in block.state_dict().items():
        if name in ("conv1.bias", "conv2.bias", "shortcut.0.bias"):
            value.zero_()  # torchvision's convolutions have no bias
        else:
            state[name.replace("norm", "bn").replace("shortcut", "downsample")] = value
    reference.load_state_dict(state)
    images, same_images = (random_images(3, in_channels, 16, 16).requires_grad_() for _ in range(2))
    out, expected = block.train(training)(images), reference.train(training)(same_images)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(images.grad, same_images.grad, rtol=1e-10, atol=1e-10)
    for ours, theirs in (("conv1", "conv1"), ("norm1", "bn1"), ("conv2", "conv2"), ("norm2", "bn2")):
        grads = [module.get_submodule(name).weight.grad for module, name in ((block, ours), (reference, theirs))]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_option_a_takes_every_second_pixel_and_appends_zero_channels() -> None:
    images = random_images(2, 3, 8, 8)
    out = SubsampledIdentity(3, 7, stride=2)(images)
    assert out.shape == (2, 7, 4, 4)
    assert torch.equal(out[:, :3], images[:, :, [0, 2, 4, 6]][:, :, :, [0, 2, 4, 6]])
    assert not out[:, 3:].any()


def closed_form(n: int, width: int, shortcut: str, classes: int, preactivation: bool) -> int:
    """Parameters, biases included, from the table: each 3x3 layer a → b has 9ab + b, each batch norm 2b."""
    count = (378 * n - 90) * width**2 + (42 * n + 30) * width + (4 * width + 1) * classes
    if shortcut == "B":
        count += 10 * width**2 + 18 * width
    if shortcut == "C":
        count += (21 * n - 10) * width**2 + 21 * n * width
    if preactivation:
        # Of the batch norms before convolutions, two stand at half their width: 2w + 4w fewer; the one after conv1 is
        # the first block's, and one of 4w stands at the end: 2w fewer and 8w more. Projections have none.
        count += -(2 + 4) * width - 2 * width + 8 * width
        count -= {"A": 0, "B": (4 + 8) * width, "C": 14 * n * width}[shortcut]
    return count


@pytest.mark.parametrize("settings", RESIDUAL + PLAIN + PREACTIVATION, ids=words)
def test_parameters_are_those_of_the_closed_form(settings: dict[str, Any]) -> None:
    for n, width, classes in ((1, 16, 10), (2, 5, 100), (4, 16, 10)):
        with torch.device("meta"):
            network = network_of(settings, 6 * n + 2, width, classes)
        preactivation = settings.get("family") == "preactivation"
        expected = closed_form(n, width, settings.get("shortcut", "A"), classes, preactivation)
        assert parameter_count(network) == expected


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_the_papers(depth: int, millions: float) -> None:
    with torch.device("meta"):
        network = ResidualNetwork(NetworkConfig(depth=depth), BatchNormConfig(), classes=10)
    # The paper's convolutions have no bias; the study's do, which adds one parameter in four hundred.
    biases = sum(m.bias.numel() for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)
    paper = parameter_count(network) - biases
    assert float(f"{paper / 1e6:.2g}") == millions
    assert biases / paper < 0.003


@pytest.mark.parametrize("depth", [8, 20, 110])
@pytest.mark.parametrize("family", ["residual", "plain", "preactivation"])
def test_depth_counts_the_layers_with_weights(family: str, depth: int) -> None:
    with torch.device("meta"):
        network = network_of({"family": family}, depth)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == depth
