"""The residual networks for 32x32 images of He et al. 2015 (arXiv:1512.03385, section 4.2) and the study's blocks.

Their successors with pre-activation are in `preactivation.py`.

Depth 6n+2: a 3x3 convolution, three groups of n blocks of two 3x3 convolutions at 32x32, 16x16 and 8x8, global
average pooling and a linear layer. Convolutions have biases, as in the study.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.batch_norm import SynchronisedBatchNorm
from resnet_dist.configuration import BatchNormConfig, NetworkConfig, is_custom
from resnet_dist.custom import call
from resnet_dist.errors import ConfigurationError


class SubsampledIdentity(nn.Module):
    """Shortcut A: every `stride`-th pixel, and zero channels appended after the existing ones."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra = out_channels - in_channels
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C + extra, H / stride, W / stride]."""
        return F.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class PointwiseConvolution(nn.Conv2d):
    """A 1x1 convolution that takes the pixels of its stride first, and then goes on with stride 1.

    It computes what `nn.Conv2d` does. That one, with stride 2, channels last, in float32 on the CPU and 3 to 7 input
    channels, writes beyond its gradient's memory in torch 2.14.1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H / stride, W / stride]."""
        down, across = self.stride
        pixels = input[:, :, ::down, ::across].contiguous(memory_format=torch.channels_last)
        return F.conv2d(pixels, self.weight, self.bias)


def projection(in_channels: int, out_channels: int, stride: int, batch_norm: BatchNormConfig) -> nn.Module:
    """Shortcuts B and C: a 1x1 convolution and batch norm."""
    return nn.Sequential(
        PointwiseConvolution(in_channels, out_channels, 1, stride),
        SynchronisedBatchNorm(out_channels, batch_norm.eps),
    )


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    batch norm before the addition:  y = [relu] (bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))
    batch norm after the addition:   y = [relu] (bn2(conv2(relu(bn1(conv1(x)))) + shortcut(x)))

    where [relu] stands if `relu_after_addition`. A plain block has no shortcut.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, network: NetworkConfig, batch_norm: BatchNormConfig
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.norm1 = SynchronisedBatchNorm(out_channels, batch_norm.eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = SynchronisedBatchNorm(out_channels, batch_norm.eps)
        self.relu_after_addition = network.relu_after_addition
        self.norm_after_addition = network.batch_norm_position == "after"
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut: nn.Module | None
        if network.family == "plain":
            self.shortcut = None
        elif network.shortcut == "C" or (network.shortcut == "B" and changes_shape):
            self.shortcut = projection(in_channels, out_channels, stride, batch_norm)
        elif changes_shape:
            self.shortcut = SubsampledIdentity(in_channels, out_channels, stride)
        else:
            self.shortcut = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H', W']."""
        out = self.conv2(F.relu(self.norm1(self.conv1(images))))
        if self.shortcut is None:
            out = self.norm2(out)
        elif self.norm_after_addition:
            out = self.norm2(out + self.shortcut(images))
        else:
            out = self.norm2(out) + self.shortcut(images)
        return F.relu(out) if self.relu_after_addition else out


def make_block(
    in_channels: int, out_channels: int, stride: int, network: NetworkConfig, batch_norm: BatchNormConfig
) -> nn.Module:
    """One block: the study's, or the user's own."""
    if not network.block:
        return Block(in_channels, out_channels, stride, network, batch_norm)
    made = call(
        "network.block",
        network.block,
        in_channels=in_channels,
        out_channels=out_channels,
        stride=stride,
        network=network,
        batch_norm=batch_norm,
    )
    if not isinstance(made, nn.Module):
        raise ConfigurationError(f"network.block: {network.block!r} gives a {type(made).__name__}, no nn.Module")
    return made


def block_shapes(network: NetworkConfig) -> list[tuple[int, int, int]]:
    """Channels in, channels out and stride of each block: three groups, the later two begin with stride 2."""
    shapes, channels = [], network.width
    for group in range(3):
        for index in range(network.blocks_per_group):
            shapes.append((channels, network.width << group, 2 if group and not index else 1))
            channels = network.width << group
    return shapes


class ResidualNetwork(nn.Module):
    """The whole network: standardised images [N, 3, 32, 32] → logits [N, classes]."""

    def __init__(self, network: NetworkConfig, batch_norm: BatchNormConfig, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, network.width, 3, padding=1)
        self.norm = SynchronisedBatchNorm(network.width, batch_norm.eps)
        self.blocks = nn.Sequential(*(make_block(*shape, network, batch_norm) for shape in block_shapes(network)))
        self.linear = nn.Linear(4 * network.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        out = self.blocks(F.relu(self.norm(self.conv(images))))
        return self.linear(out.mean((2, 3)))  # type: ignore[no-any-return]


def make_network(network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, seed: int = 0) -> nn.Module:
    """The network that a configuration asks for: standardised images [N, 3, 32, 32] → logits [N, classes].

    What code of the user's own draws from torch's generator while it makes its layers is a function of the seed.
    """
    if is_custom(network.family) or network.block:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if network.block:
                return ResidualNetwork(network, batch_norm, classes)
            made = call("network.family", network.family, network=network, batch_norm=batch_norm, classes=classes)
        if not isinstance(made, nn.Module):
            raise ConfigurationError(f"network.family: {network.family!r} gives a {type(made).__name__}, no nn.Module")
        return made
    if network.family == "preactivation":
        from resnet_dist.preactivation import PreactivationNetwork

        return PreactivationNetwork(network, batch_norm, classes)
    return ResidualNetwork(network, batch_norm, classes)


def parameter_count(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
