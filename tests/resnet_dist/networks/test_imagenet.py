from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.networks.construction import make_network, parameter_count
from resnet_dist.networks.imagenet import ImageNetNetwork
from resnet_dist.networks.initialisation import initialise
from resnet_dist.networks.max_pooling import MaxPool
from tests.naive_imagenet import NaiveImageNetNetwork
from tests.resnet_dist.networks.test_networks import assert_close, random_images, randomise, words


def network_of(depth: int, classes: int = 1000, **settings: Any) -> ImageNetNetwork:
    config = NetworkConfig(depth=depth, **{"family": "imagenet-residual"} | settings)
    made = make_network(config, BatchNormConfig(), classes)
    assert isinstance(made, ImageNetNetwork)
    return made


@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_and_gradients_are_torchvisions(depth: int) -> None:
    ours = network_of(depth, classes=5, shortcut="B", bottleneck_stride="3x3").double()
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=5).double()
    randomise(ours)
    named = {name: value for name, value in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    pairs = list(zip(ours.state_dict().values(), named.values(), strict=True))  # both have them in the order of layers
    with torch.no_grad():
        for value, same in pairs:
            same.copy_(value)
    for training in (False, True):
        for network in (ours, theirs):
            network.train(training).zero_grad()
        images, same_images = (random_images(3, 3, 35, 35).requires_grad_() for _ in range(2))
        out, expected = ours(images), theirs(same_images)
        weights = random_images(3, 5) / expected.detach().abs().max()
        assert_close((out * weights).sum(), (expected * weights).sum(), "logits")
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-12)
        (out * weights).sum().backward()
        (expected * weights).sum().backward()
        scale = max(float(value.grad.abs().max()) for value in theirs.parameters() if value.grad is not None)
        for (name, value), same in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert value.grad is not None and same.grad is not None
            assert_close(value.grad / scale, same.grad / scale, name)
        for value, same in pairs:  # running statistics, too
            torch.testing.assert_close(value, same, rtol=1e-9, atol=1e-9)


def multiply_adds(network: nn.Module, size: int) -> int:
    """Of the convolutions and linear layers, for one image."""
    counts = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        counts.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return sum(counts)


# He et al. 2015, table 1, in 10^9 multiply-adds: identity shortcuts (option A) up to 34 layers, projections beyond.
@pytest.mark.parametrize(
    ("depth", "shortcut", "paper", "exact"),
    [
        (18, "A", 1.8, 1_794_805_760),
        (34, "A", 3.6, 3_644_493_824),
        (50, "B", 3.8, 3_857_973_248),
        (101, "B", 7.6, 7_570_194_432),
        (152, "B", 11.3, 11_282_415_616),
    ],
)
def test_multiply_adds_are_the_papers(depth: int, shortcut: str, paper: float, exact: int) -> None:
    with torch.device("meta"):
        network = network_of(depth, shortcut=shortcut)
    assert multiply_adds(network, 224) == exact
    assert exact / 1e9 == pytest.approx(paper, abs=0.06)


def test_the_plain_network_has_the_papers_multiply_adds() -> None:
    with torch.device("meta"):
        network = network_of(34, family="imagenet-plain")
    assert multiply_adds(network, 224) == 3_644_493_824  # "3.6 billion FLOPs", section 3.3


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_parameters_are_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        ours = network_of(depth, shortcut="B", bottleneck_stride="3x3")
        theirs = getattr(torchvision.models, f"resnet{depth}")()
        assert parameter_count(ours) == parameter_count(theirs)
        layers = [module for module in ours.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth + 4 - (depth < 50)  # and the projections


VARIANTS: list[dict[str, Any]] = [
    *({"shortcut": option, "relu_after_addition": option != "B"} for option in "ABC"),
    {"shortcut": "B", "batch_norm_position": "after"},
    {"shortcut": "A", "batch_norm_position": "after", "relu_after_addition": False},
    {"family": "imagenet-plain", "relu_after_addition": False},
    *({"family": "imagenet-preactivation", "shortcut": option} for option in "ABC"),
]


@pytest.mark.parametrize("settings", VARIANTS, ids=words)
@pytest.mark.parametrize("depth", [18, 50])
def test_every_variant_is_the_naive_network(depth: int, settings: dict[str, Any]) -> None:
    stride_first = settings.get("shortcut") != "B"
    bottleneck = {} if stride_first or depth < 50 else {"bottleneck_stride": "3x3"}
    network = network_of(depth, classes=5, width=2, **settings, **bottleneck).double()
    randomise(network)
    naive = NaiveImageNetNetwork(
        {name: value.detach().clone().requires_grad_() for name, value in network.state_dict().items()},
        n=depth,
        width=2,
        option="none" if settings.get("family") == "imagenet-plain" else settings["shortcut"],
        relu_after_addition=settings.get("relu_after_addition", True),
        norm_after_addition=settings.get("batch_norm_position") == "after",
        training=True,
        preactivation=settings.get("family") == "imagenet-preactivation",
        stride_first=stride_first,
    )
    images, naive_images = (random_images(3, 3, 64, 64).requires_grad_() for _ in range(2))
    weights = random_images(3, 5)
    out, expected = network(images), naive(naive_images)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-8)
    pairs = [(parameter.grad, naive.parameters[name].grad) for name, parameter in network.named_parameters()]
    greatest = max(float(expected.abs().max()) for _, expected in pairs if expected is not None)
    for gradient, expected_gradient in [*pairs, (images.grad, naive_images.grad)]:
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-7 * greatest)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "ceil", "rows", "columns"),
    [
        (3, 2, 1, False, 16, 16),
        (3, 2, 1, False, 17, 14),
        (3, 2, 0, False, 13, 27),
        (2, 2, 0, False, 8, 9),
        (3, 2, 1, False, 1, 1),
        (3, 2, 0, True, 14, 15),
        (3, 2, 0, True, 30, 6),
    ],
)
def test_max_pooling_and_its_gradient_are_torchs(
    size: int, stride: int, padding: int, ceil: bool, rows: int, columns: int
) -> None:
    draws = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 3, (2, 4, rows, columns), generator=draws).double()  # many are equal
    ours, theirs = (pixels.clone().requires_grad_() for _ in range(2))
    out, expected = (
        MaxPool(size, stride, padding, ceil)(ours),
        F.max_pool2d(theirs, size, stride, padding, ceil_mode=ceil),
    )
    assert torch.equal(out, expected)
    gradient = torch.randn(out.shape, generator=draws, dtype=torch.float64)
    out.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_scripts_network_has_no_batch_norm_at_its_stem_and_a_convolution_at_its_end() -> None:
    network = network_of(34, classes=6, width=2, stem_and_head="script").eval()
    assert network.norm is None and network.conv.bias is not None
    assert isinstance(network.linear, nn.Conv2d) and network.linear.weight.shape == (6, 16, 7, 7)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = network(images)
        head = network.linear(network.blocks(F.max_pool2d(F.relu(network.conv(images)), 3, 2, 1)))
    assert logits.shape == (2, 6)
    assert torch.equal(logits, head.clamp(min=0).flatten(1))  # a class is never less likely than this


@pytest.mark.parametrize(("family", "depth"), [("residual", 8), ("imagenet-residual", 18), ("imagenet-residual", 50)])
def test_a_zero_last_scale_begins_each_block_as_its_shortcut(family: str, depth: int) -> None:
    config = NetworkConfig(depth=depth, family=family, width=4, zero_last_scale=True)
    network = make_network(config, BatchNormConfig(), 3)
    initialise(network, config, seed=0)
    network.eval()
    assert isinstance(network.blocks, nn.Sequential)
    for block in network.blocks:
        images = torch.rand(2, next(block.parameters()).shape[1], 8, 8)
        assert isinstance(block.shortcut, nn.Module)
        assert torch.equal(block(images), block.shortcut(images))


def test_the_width_is_the_papers_for_the_family_unless_it_is_given() -> None:
    config = TrainingConfig().override({"network.family": "imagenet-residual", "network.depth": 18})
    assert config.network.width == 64
    assert config.override({"network.family": "residual", "network.depth": 20}) == TrainingConfig()
    narrow = config.override({"network.width": 8})
    assert narrow.override({"network.family": "imagenet-plain"}).network.width == 8
