"""The residual networks for ImageNet of He et al. 2015 (arXiv:1512.03385, table 1), their plain and pre-activation kin.

A 7x7 convolution and max pooling, four groups of blocks, global average pooling and a linear layer. Blocks are basic,
two 3x3 convolutions, or bottlenecks: 1x1, 3x3, and 1x1 with four times the channels. Convolutions have no biases, since
batch norm follows, but where a setting takes that away. Any size of images will do, but for the ends of the source's
script.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.blocks import PointwiseConvolution, block_shapes, pixel_mean, projection, shortcut_of
from resnet_dist.networks.max_pooling import MaxPool

FINAL_MAP = 7
"""Rows and columns of the last block's map for images of 224 pixels."""


class _Path(nn.Module):
    """A block's convolutions, `conv1` to `conv2` or `conv3`, each with a batch norm, `norm1` and so on.

    Batch norms stand behind the convolutions, or before them with pre-activation.
    """

    shortcut: nn.Module | None

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, network: NetworkConfig, batch_norm: BatchNormConfig
    ) -> None:
        super().__init__()
        layers = _layers(in_channels, out_channels, stride, network)
        self.count = len(layers)
        before = network.family == "imagenet-preactivation"
        for number, (channels, wider, kernel, step) in enumerate(layers, 1):
            convolution = PointwiseConvolution if kernel == 1 else nn.Conv2d
            self.add_module(f"conv{number}", convolution(channels, wider, kernel, step, kernel // 2, bias=False))
            self.add_module(f"norm{number}", SynchronisedBatchNorm(channels if before else wider, batch_norm.eps))

    def conv(self, number: int, images: Tensor) -> Tensor:
        """What a convolution gives; they are counted from 1."""
        return self.get_submodule(f"conv{number}")(images)  # type: ignore[no-any-return]

    def norm(self, number: int, images: Tensor) -> Tensor:
        """What a batch norm gives."""
        return self.get_submodule(f"norm{number}")(images)  # type: ignore[no-any-return]


def _layers(
    in_channels: int, out_channels: int, stride: int, network: NetworkConfig
) -> Sequence[tuple[int, int, int, int]]:
    """Channels in, channels out, kernel and stride of each convolution of a block."""
    if not network.bottlenecks:
        return (in_channels, out_channels, 3, stride), (out_channels, out_channels, 3, 1)
    narrow = out_channels // 4
    first, second = (stride, 1) if network.bottleneck_stride == "1x1" else (1, stride)
    return (in_channels, narrow, 1, first), (narrow, narrow, 3, second), (narrow, out_channels, 1, 1)


class ImageNetBlock(_Path):
    """A basic block or a bottleneck, in the study's four variants, as `cifar.Block` has them; or a plain one."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, network: NetworkConfig, batch_norm: BatchNormConfig
    ) -> None:
        super().__init__(in_channels, out_channels, stride, network, batch_norm)
        self.relu_after_addition = network.relu_after_addition
        self.norm_after_addition = network.batch_norm_position == "after"
        shape = in_channels, out_channels, stride
        self.shortcut = None
        if network.family != "imagenet-plain":
            self.shortcut = shortcut_of(network.shortcut, *shape, lambda: projection(*shape, batch_norm, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H', W']."""
        out = images
        for number in range(1, self.count):
            out = F.relu(self.norm(number, self.conv(number, out)))
        out = self.conv(self.count, out)
        if self.shortcut is None:
            out = self.norm(self.count, out)
        elif self.norm_after_addition:
            out = self.norm(self.count, out + self.shortcut(images))
        else:
            out = self.norm(self.count, out) + self.shortcut(images)
        return F.relu(out) if self.relu_after_addition else out


class ImageNetPreactivationBlock(_Path):
    """A basic block or a bottleneck with batch norm and ReLU before each convolution, as `PreactivationBlock` has them.

    The first block of all is told `is_first`: its first batch norm and ReLU stand before the max pooling.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        network: NetworkConfig,
        batch_norm: BatchNormConfig,
        is_first: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, network, batch_norm)
        if is_first:
            del self.norm1
        self.is_first = is_first
        self.activates_shortcut = stride != 1 or in_channels != out_channels

        def projected() -> nn.Module:
            return PointwiseConvolution(in_channels, out_channels, 1, stride, bias=False)

        self.shortcut = shortcut_of(network.shortcut, in_channels, out_channels, stride, projected)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H', W']."""
        active = images if self.is_first else F.relu(self.norm(1, images))
        out = self.conv(1, active)
        for number in range(2, self.count + 1):
            out = self.conv(number, F.relu(self.norm(number, out)))
        assert self.shortcut is not None
        kept: Tensor = self.shortcut(active if self.activates_shortcut else images)
        return kept + out


class ImageNetNetwork(nn.Module):
    """The whole network: standardised images [N, 3, H, W] → logits [N, classes]."""

    def __init__(self, network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, size: int = 0) -> None:
        super().__init__()  # images of any size will do
        shapes = block_shapes(network)
        channels = shapes[-1][1]
        script = network.stem_and_head == "script"
        preactivation = network.family == "imagenet-preactivation"
        self.conv = nn.Conv2d(3, network.channels, 7, 2, padding=3, bias=script)
        self.norm = None if script else SynchronisedBatchNorm(network.channels, batch_norm.eps)
        self.pool = MaxPool(3, 2, padding=1)
        self.blocks = nn.Sequential(
            *(
                ImageNetPreactivationBlock(*shape, network, batch_norm, is_first=number == 0)
                if preactivation
                else ImageNetBlock(*shape, network, batch_norm)
                for number, shape in enumerate(shapes)
            )
        )
        self.last_norm = SynchronisedBatchNorm(channels, batch_norm.eps) if preactivation else None
        self.linear: nn.Module = nn.Conv2d(channels, classes, FINAL_MAP) if script else nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        out = self.conv(images)
        out = self.pool(F.relu(out if self.norm is None else self.norm(out)))
        out = self.blocks(out)
        if self.last_norm is not None:
            out = F.relu(self.last_norm(out))
        if isinstance(self.linear, nn.Conv2d):
            return F.relu(self.linear(out)).flatten(1)
        return self.linear(pixel_mean(out))  # type: ignore[no-any-return]
