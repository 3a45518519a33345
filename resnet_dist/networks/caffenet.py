"""CaffeNet (Jia et al. 2014, arXiv:1408.5093; Krizhevsky et al. 2012 with pooling before normalisation).

With batch norm and activations as github.com/ducha-aiki/caffenet-benchmark compares them (Mishkin et al. 2016,
arXiv:1606.02228), to which the document refers. Weights are drawn as those of the residual networks are.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.max_pooling import MaxPool
from resnet_dist.networks.noise import Dropout, RandomisedReLU


class HiddenLinear(nn.Linear):
    """A linear layer before an activation, whose weights are drawn as a convolution's are."""


class Activation(nn.Module):
    """An activation by its name in the configuration, over [N, C, …].

    `maxout` takes the greater of each two channels, and halves their number.
    """

    def __init__(self, name: str, channels: int, number: int = 0) -> None:
        super().__init__()
        self.name = name
        self.random = RandomisedReLU(number, RANDOM_DIVISORS) if name == "rrelu" else None
        self.slopes = nn.Parameter(torch.full((channels,), 0.25)) if name == "prelu" else None

    def forward(self, images: Tensor) -> Tensor:
        """The same shape, but for `maxout`."""
        if self.random is not None:
            return self.random(images)  # type: ignore[no-any-return]
        if self.slopes is not None:
            return F.prelu(images, self.slopes)
        if self.name == "maxout":
            first, second = images.chunk(2, dim=1)
            return torch.where(second > first, second, first)
        return _FUNCTIONS[self.name](images)


RANDOM_DIVISORS = (10.0, 30.0)
"""Of `rrelu`, as the comparison's caffenet_lsuv_RReLU.prototxt has them; arXiv:1505.00853 draws from 3 to 8."""

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda images: F.leaky_relu(images, 0.01),
    "very_leaky_relu": lambda images: F.leaky_relu(images, 1 / 3),
    "elu": F.elu,
    "selu": F.selu,
    "tanh": torch.tanh,
    "scaled_tanh": lambda images: 1.73 * torch.tanh(images * (2 / 3)),
    "arcsinh": torch.asinh,
    "softplus": lambda images: F.softplus(images) - math.log(2),
    "sigmoid": torch.sigmoid,
    "none": lambda images: images,
}


class _Layer(nn.Module):
    """A convolution or linear layer with its activation, and batch norm before it or after it."""

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, network: NetworkConfig, batch_norm: BatchNormConfig, number: int
    ) -> None:
        super().__init__()
        self.layer = layer
        given = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
        channels = given // 2 if network.activation == "maxout" else given
        self.activation = Activation(network.activation, channels, number)
        self.position = network.activation_batch_norm
        self.norm: nn.Module | None = None
        if self.position != "none":
            self.norm = SynchronisedBatchNorm(given if self.position == "before" else channels, batch_norm.eps)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, …] → [N, C', …]."""
        out = self.layer(images)
        if self.position == "before":
            out = self._normalised(out)
        out = self.activation(out)
        return self._normalised(out) if self.position == "after" else out

    def _normalised(self, images: Tensor) -> Tensor:
        assert self.norm is not None
        if images.ndim == 4:
            return self.norm(images)  # type: ignore[no-any-return]
        return self.norm(images[:, :, None, None])[:, :, 0, 0]  # type: ignore[no-any-return]


class CaffeNet(nn.Module):
    """The whole network: standardised images [N, 3, S, S] → logits [N, classes]."""

    def __init__(self, network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, size: int = 227) -> None:
        super().__init__()
        width = network.channels
        pieces = 2 if network.activation == "maxout" else 1

        numbers = itertools.count()

        def convolution(channels: int, wider: int, kernel: int, **options: Any) -> _Layer:
            return _Layer(nn.Conv2d(channels, wider * pieces, kernel, **options), network, batch_norm, next(numbers))

        def hidden(features: int, neurons: int) -> _Layer:
            return _Layer(HiddenLinear(features, neurons * pieces), network, batch_norm, next(numbers))

        second, third = width * 8 // 3, width * 4
        self.conv1 = convolution(3, width, 11, stride=4)
        self.conv2 = convolution(width, second, 5, padding=2, groups=2)
        self.conv3 = convolution(second, third, 3, padding=1)
        self.conv4 = convolution(third, third, 3, padding=1, groups=2)
        self.conv5 = convolution(third, second, 3, padding=1, groups=2)
        self.pool = MaxPool(3, 2, ceil_mode=True)
        # Its parameters are none: Caffe's has it after the first two poolings, the comparisons do without.
        self.response_norm = nn.LocalResponseNorm(5) if network.local_response_norm else nn.Identity()
        self.fc6 = hidden(second * final_map(size) ** 2, network.fully_connected)
        self.fc7 = hidden(network.fully_connected, network.fully_connected)
        dropouts = 2 if network.dropout else 0
        self.dropouts = nn.ModuleList(Dropout(network.dropout, next(numbers)) for _ in range(dropouts))
        self.linear = nn.Linear(network.fully_connected, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        out = self.response_norm(self.pool(self.conv1(images)))
        out = self.response_norm(self.pool(self.conv2(out)))
        out = self.pool(self.conv5(self.conv4(self.conv3(out))))
        out = out.flatten(1)
        for place, layer in enumerate((self.fc6, self.fc7)):
            out = layer(out)
            out = self.dropouts[place](out) if len(self.dropouts) else out
        return self.linear(out)  # type: ignore[no-any-return]


def final_map(size: int) -> int:
    """Rows and columns of the last pooling's map: 6 for images of 227 pixels, 3 for 128."""
    extent = (size - 11) // 4 + 1
    for _ in range(3):
        extent = -(-(extent - 3) // 2) + 1
    return extent
