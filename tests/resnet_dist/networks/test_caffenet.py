from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.caffenet import Activation, CaffeNet
from resnet_dist.networks.construction import make_network, parameter_count
from resnet_dist.networks.noise import Noise, keyed
from tests.resnet_dist.networks.test_networks import random_images, randomise


def network_of(size: int, classes: int = 1000, **settings: Any) -> CaffeNet:
    config = NetworkConfig(family="caffenet", depth=8, **settings)
    made = make_network(config, BatchNormConfig(), classes, size=size)
    assert isinstance(made, CaffeNet)
    return made


# bvlc_reference_caffenet/train_val.prototxt: shapes of weights, and of each layer's output for one image of 227 pixels.
SHAPES = {
    "conv1": ((96, 3, 11, 11), (96, 55, 55)),
    "conv2": ((256, 48, 5, 5), (256, 27, 27)),
    "conv3": ((384, 256, 3, 3), (384, 13, 13)),
    "conv4": ((384, 192, 3, 3), (384, 13, 13)),
    "conv5": ((256, 192, 3, 3), (256, 13, 13)),
    "fc6": ((4096, 9216), (4096,)),
    "fc7": ((4096, 4096), (4096,)),
    "linear": ((1000, 4096), (1000,)),
}


def test_layers_and_parameters_are_caffes() -> None:
    with torch.device("meta"):
        network = network_of(227)
    outputs: dict[str, tuple[int, ...]] = {}
    for name in SHAPES:
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: tuple(output.shape[1:])})
        )
    with torch.no_grad():
        network(torch.zeros(1, 3, 227, 227, device="meta"))
    weights = {name.split(".")[0]: tuple(w.shape) for name, w in network.named_parameters() if w.ndim > 1}
    assert {name: (weights[name], outputs[name]) for name in SHAPES} == SHAPES
    assert parameter_count(network) == 60_965_224


def test_the_compared_network_of_128_pixels_has_a_last_map_of_3() -> None:
    network = network_of(128, fully_connected=2048, width=6)
    assert network.fc6.layer.weight.shape == (2048, 16 * 3 * 3)
    assert network.eval()(torch.zeros(2, 3, 128, 128)).shape == (2, 1000)


def reference(network: CaffeNet, images: Tensor, position: str, response_norm: bool = False) -> Tensor:
    """The forward pass again, by torch's functions."""
    state = network.state_dict()

    def layer(name: str, out: Tensor, **options: int) -> Tensor:
        weight, bias = state[f"{name}.layer.weight"], state[f"{name}.layer.bias"]
        out = F.conv2d(out, weight, bias, **options) if weight.ndim == 4 else F.linear(out, weight, bias)

        def normalised(out: Tensor) -> Tensor:
            return F.batch_norm(out, None, None, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"], True)

        if position == "before":
            out = normalised(out)
        out = out.clamp(min=0)
        return normalised(out) if position == "after" else out

    def pool(out: Tensor) -> Tensor:
        return F.max_pool2d(out, 3, 2, ceil_mode=True)

    def normalised(out: Tensor) -> Tensor:
        """By n = 5 channels, alpha = 0.0001 and beta = 0.75, as the layers norm1 and norm2 of train_val.prototxt."""
        if not response_norm:
            return out
        squares = F.pad(out**2, (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
        return out / (1 + 1e-4 / 5 * squares) ** 0.75

    out = normalised(pool(layer("conv1", images, stride=4)))
    out = normalised(pool(layer("conv2", out, padding=2, groups=2)))
    out = layer("conv4", layer("conv3", out, padding=1), padding=1, groups=2)
    out = pool(layer("conv5", out, padding=1, groups=2)).flatten(1)
    return F.linear(layer("fc7", layer("fc6", out)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("position", ["none", "before", "after"])
def test_batch_norm_stands_before_the_activation_or_after_it(position: str) -> None:
    network = network_of(67, 5, width=6, fully_connected=8, activation_batch_norm=position).double()
    randomise(network)
    images = random_images(4, 3, 67, 67)
    expected = reference(network, images, position)
    torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)
    norms = sum(isinstance(module, SynchronisedBatchNorm) for module in network.modules())
    assert norms == (0 if position == "none" else 7)


def test_every_batch_norm_has_the_eps_of_the_configuration_and_every_prelu_a_slope_a_channel() -> None:
    config = NetworkConfig(family="caffenet", depth=8, width=6, activation="prelu", activation_batch_norm="after")
    with torch.device("meta"):
        network = make_network(config, BatchNormConfig(eps=0.25), 5, size=67)
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {0.25}
    slopes = {name.split(".")[0]: value.numel() for name, value in network.named_parameters() if "slopes" in name}
    assert slopes == {"conv1": 6, "conv2": 16, "conv3": 24, "conv4": 24, "conv5": 16, "fc6": 4096, "fc7": 4096}
    prelu = Activation("prelu", 3)
    with torch.no_grad():
        assert prelu.slopes is not None
        prelu.slopes.copy_(torch.tensor([0.5, 0.0, -1.0]))
    assert prelu(torch.tensor([[-2.0, -2.0, -2.0]])).tolist() == [[-1, 0, 2]]


ACTIVATIONS: dict[str, list[float]] = {  # of -3, -0.5, 0 and 2
    "relu": [0, 0, 0, 2],
    "leaky_relu": [-0.03, -0.005, 0, 2],
    "very_leaky_relu": [-1, -0.5 / 3, 0, 2],
    "prelu": [-0.75, -0.125, 0, 2],
    "elu": [-0.950213, -0.393469, 0, 2],
    "selu": [-1.670568, -0.691758, 0, 2.101402],
    "tanh": [-0.995055, -0.462117, 0, 0.964028],
    "scaled_tanh": [-1.667768, -0.556217, 0, 1.505207],
    "arcsinh": [-1.818446, -0.481212, 0, 1.443635],
    "softplus": [-0.644560, -0.219070, 0, 1.433781],
    "sigmoid": [0.047426, 0.377541, 0.5, 0.880797],
    "none": [-3, -0.5, 0, 2],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_their_values(name: str) -> None:
    values = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)[None, :, None, None]
    found = Activation(name, 4).double()(values).flatten()
    torch.testing.assert_close(found, torch.tensor(ACTIVATIONS[name], dtype=torch.float64), rtol=0, atol=2e-6)


def test_dropout_follows_both_hidden_linear_layers_and_slopes_are_drawn_in_training_alone() -> None:
    network = network_of(67, 5, width=6, fully_connected=64, dropout=0.5, activation="rrelu")
    images, seen = torch.ones(2, 3, 67, 67), {}
    for layer in network.dropouts:
        layer.register_forward_hook(
            lambda module, given, found: seen.update({module: ((found == 0).double().mean().item(), found.shape[1])})
        )
    with keyed(torch.tensor([1, 2])):
        first, second = network(images)
    numbers = [module.number for module in network.modules() if isinstance(module, Noise)]
    assert len(numbers) == len(set(numbers)) == 7 + 2, "no layer draws what another one does"
    assert (
        len(seen) == 2
        and all(0.3 < part < 0.7 and width == 64 for part, width in seen.values())
        and not torch.equal(first, second)
    )
    first, second = network.eval()(images)
    torch.testing.assert_close(first, second)
    assert Activation("rrelu", 1).eval()(torch.tensor([-60.0, 4.0])).tolist() == [-3, 4]


def test_maxout_is_the_greater_of_two_pieces_of_the_same_width() -> None:
    values = torch.tensor([[1.0, -2.0, 3.0, -5.0]])[:, :, None, None]
    assert Activation("maxout", 2)(values).flatten().tolist() == [3, -2]
    network = network_of(67, 5, width=6, fully_connected=8, activation="maxout", activation_batch_norm="after")
    assert network.conv1.layer.weight.shape[0] == 12 and network(torch.zeros(2, 3, 67, 67)).shape == (2, 5)
    assert isinstance(network.conv1.norm, nn.BatchNorm2d) and network.conv1.norm.num_features == 6


def test_caffes_normalisation_over_channels_follows_the_first_two_poolings() -> None:
    network = network_of(67, 5, width=6, fully_connected=8, local_response_norm=True).double()
    images = 1000 * random_images(2, 3, 67, 67)  # squares that count beside 1
    expected = reference(network, images, "none", response_norm=True)
    torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(expected, reference(network, images, "none"), rtol=1e-3)
