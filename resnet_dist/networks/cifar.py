"""The residual networks for 32x32 images of He et al. 2015 (arXiv:1512.03385, section 4.2) and the study's blocks.

Their successors with pre-activation are in `preactivation.py`.

Depth 6n+2: a 3x3 convolution, three groups of n blocks of two 3x3 convolutions at 32x32, 16x16 and 8x8, global
average pooling and a linear layer. Convolutions have biases, as in the study.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.custom_code import call
from resnet_dist.errors import ConfigurationError
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.blocks import block_shapes, pixel_mean, projection, shortcut_of


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
        shape = in_channels, out_channels, stride
        self.shortcut: nn.Module | None = None
        if network.family != "plain":
            self.shortcut = shortcut_of(network.shortcut, *shape, lambda: projection(*shape, batch_norm))

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
        raise ConfigurationError(
            f"network.block: {network.block!r} gives a value of type {type(made).__name__}, no nn.Module",
            "network.block",
        )
    return made


class ResidualNetwork(nn.Module):
    """The whole network: standardised images [N, 3, H, W] → logits [N, classes]."""

    def __init__(self, network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, size: int = 0) -> None:
        super().__init__()  # images of any size will do
        self.conv = nn.Conv2d(3, network.channels, 3, padding=1)
        self.norm = SynchronisedBatchNorm(network.channels, batch_norm.eps)
        self.blocks = nn.Sequential(*(make_block(*shape, network, batch_norm) for shape in block_shapes(network)))
        self.linear = nn.Linear(4 * network.channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        out = self.blocks(F.relu(self.norm(self.conv(images))))
        return self.linear(pixel_mean(out))  # type: ignore[no-any-return]
