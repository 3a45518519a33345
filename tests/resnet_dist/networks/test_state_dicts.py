"""Other people's state dicts give, in our networks, the outputs of theirs."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from resnet_dist.networks.construction import make_network
from resnet_dist.networks.state_dicts import from_any, to_torchvision
from resnet_dist.records.initial_state import load_weights
from tests.resnet_dist.networks.test_networks import random_images, randomise


class HalvesOfZeros(nn.Module):
    """akamaster's shortcut A: a quarter of the new number of channels is put on either side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        return F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 4, self.channels // 4))


class AkamastersBlock(nn.Module):
    def __init__(self, channels: int, wider: int, option: str) -> None:
        super().__init__()
        stride = 1 if channels == wider else 2
        self.conv1 = nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.shortcut: nn.Module = nn.Sequential()
        if stride == 2 and option == "A":
            self.shortcut = HalvesOfZeros(wider)
        elif stride == 2:
            convolution = nn.Conv2d(channels, wider, 1, 2, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(wider))

    def forward(self, images: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        return F.relu(out + self.shortcut(images))


class AkamastersNetwork(nn.Module):
    """The network of github.com/akamaster/pytorch_resnet_cifar10, with its names."""

    def __init__(self, n: int, width: int = 16, classes: int = 10, option: str = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        groups = []
        for channels, wider in ((width, width), (width, 2 * width), (2 * width, 4 * width)):
            first = AkamastersBlock(channels, wider, option)
            groups.append(nn.Sequential(first, *(AkamastersBlock(wider, wider, option) for _ in range(n - 1))))
        self.layer1, self.layer2, self.layer3 = groups
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits


def loaded(theirs: dict[str, Tensor], classes: int, **settings: object) -> nn.Module:
    config = TrainingConfig(NetworkConfig(**settings))  # type: ignore[arg-type]
    network = make_network(config.network, BatchNormConfig(), classes).double()
    for value in network.state_dict().values():
        value.fill_(7)  # none of it may remain
    named = {name: value for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    load_weights(network, from_any(named, config.network), config)
    return network.eval()


def randomised(network: nn.Module) -> nn.Module:
    counts = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in counts:
        module.num_batches_tracked = None
    randomise(network.double())
    return network.eval()


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize(("n", "width"), [(1, 4), (3, 16)])
def test_akamasters_weights_give_its_outputs(n: int, width: int, option: str) -> None:
    theirs = randomised(AkamastersNetwork(n, width, option=option))
    ours = loaded(theirs.state_dict(), 10, depth=6 * n + 2, width=width, shortcut=option)
    images = random_images(4, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_weights_give_its_outputs_and_go_back(depth: int) -> None:
    theirs = randomised(getattr(torchvision.models, f"resnet{depth}")(num_classes=6))
    settings = {"family": "imagenet-residual", "depth": depth, "shortcut": "B"}
    ours = loaded(theirs.state_dict(), 6, **settings, **({"bottleneck_stride": "3x3"} if depth >= 50 else {}))
    images = random_images(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-10, atol=1e-10)
    back = to_torchvision(ours.state_dict(), NetworkConfig(depth=depth, family="imagenet-residual"))
    expected = theirs.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in back)


OTHERS: list[tuple[dict[str, object], str]] = [
    ({"depth": 14}, "its layer1.2.conv1.weight has no place there"),
    ({"depth": 26}, "it lacks blocks.3.conv1.weight"),
    ({"depth": 20, "width": 8}, "its conv.weight has the shape [16, 3, 3, 3], and this network's [8, 3, 3, 3]"),
    ({"depth": 20, "shortcut": "B"}, "it lacks blocks.3.shortcut.0.weight"),
    ({"depth": 20, "family": "preactivation"}, "its blocks.3.norm1.weight has the shape [32], and this network's [16]"),
]


@pytest.mark.parametrize(("settings", "said"), OTHERS)
def test_weights_of_another_network_are_refused_in_one_line(settings: dict[str, object], said: str) -> None:
    theirs = AkamastersNetwork(3).state_dict()
    with pytest.raises(ConfigurationError) as caught:
        loaded(theirs, 10, **settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("network.weights: ")


def test_other_classes_need_a_new_last_layer() -> None:
    theirs = randomised(AkamastersNetwork(1, 4)).state_dict()
    with pytest.raises(ConfigurationError, match=r"linear.weight has the shape \[10, 16\].*network.reset linear"):
        loaded(theirs, 3, depth=8, width=4)
    ours = loaded(theirs, 3, depth=8, width=4, weights="w.pt", reset="linear")
    assert ours.state_dict()["linear.weight"].eq(7).all()  # as it was drawn
    assert torch.equal(ours.state_dict()["conv.weight"], theirs["conv1.weight"])
