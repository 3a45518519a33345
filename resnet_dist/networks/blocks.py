"""What residual networks are made of: shortcuts and the shapes of their blocks."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm


def subsample(images: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Every `stride`-th pixel of [N, C, H, W], down and across.

    As means of one pixel each: a slice's gradient is not channels last, and a pass over it takes three times as long.
    """
    return images if max(stride) == 1 else F.avg_pool2d(images, 1, stride)


def pixel_mean(images: Tensor) -> Tensor:
    """Mean over the pixels: [N, C, H, W] → [N, C]. Its gradient is channels last."""
    return images.permute(0, 2, 3, 1).mean((1, 2))


class SubsampledIdentity(nn.Module):
    """Shortcut A: every `stride`-th pixel, and zero channels appended after the existing ones."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra = out_channels - in_channels
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C + extra, H / stride, W / stride]."""
        return F.pad(subsample(images, (self.stride, self.stride)), (0, 0, 0, 0, 0, self.extra))


class PointwiseConvolution(nn.Conv2d):
    """A 1x1 convolution that takes the pixels of its stride first, and then goes on with stride 1.

    It computes what `nn.Conv2d` does. That one, with stride 2, channels last, in float32 on the CPU and 3 to 7 input
    channels, writes beyond its gradient's memory in torch 2.14.1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H / stride, W / stride]."""
        return F.conv2d(subsample(input, self.stride), self.weight, self.bias)


def shortcut_of(
    kind: str, in_channels: int, out_channels: int, stride: int, projected: Callable[[], nn.Module]
) -> nn.Module:
    """The shortcut of kind A, B or C for a block; `projected` makes a projection, which only some of them have."""
    changes_shape = stride != 1 or in_channels != out_channels
    if kind == "C" or (kind == "B" and changes_shape):
        return projected()
    return SubsampledIdentity(in_channels, out_channels, stride) if changes_shape else nn.Identity()


def projection(
    in_channels: int, out_channels: int, stride: int, batch_norm: BatchNormConfig, bias: bool = True
) -> nn.Module:
    """Shortcuts B and C: a 1x1 convolution and batch norm."""
    return nn.Sequential(
        PointwiseConvolution(in_channels, out_channels, 1, stride, bias=bias),
        SynchronisedBatchNorm(out_channels, batch_norm.eps),
    )


def block_shapes(network: NetworkConfig) -> list[tuple[int, int, int]]:
    """Channels in, channels out and stride of each block: all groups but the first begin with stride 2."""
    shapes, channels = [], network.channels
    for group, blocks in enumerate(network.groups):
        out_channels = (network.channels << group) * (4 if network.bottlenecks else 1)
        for index in range(blocks):
            shapes.append((channels, out_channels, 2 if group and not index else 1))
            channels = out_channels
    return shapes
