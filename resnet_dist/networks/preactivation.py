"""Residual networks with pre-activation: He et al. 2016, "Identity Mappings in Deep Residual Networks".

arXiv:1603.05027. Depth 6n+2, groups and widths as in `networks.py`, but batch norm and ReLU stand before each
convolution, and nothing stands in the way of the identity.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.blocks import PointwiseConvolution, block_shapes, pixel_mean, shortcut_of


class PreactivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, beside a shortcut.

    a = relu(norm1(x));  y = conv2(relu(norm2(conv1(a)))) + shortcut(s)

    where s is x; but in the network's first block, and where shapes change, it is a (the paper's appendix, and its
    authors' code). A projection (B, C) is a 1x1 convolution without batch norm of its own.
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
        super().__init__()
        self.norm1 = SynchronisedBatchNorm(in_channels, batch_norm.eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.norm2 = SynchronisedBatchNorm(out_channels, batch_norm.eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.activates_shortcut = is_first or stride != 1 or in_channels != out_channels

        def projected() -> nn.Module:
            return PointwiseConvolution(in_channels, out_channels, 1, stride)

        self.shortcut = shortcut_of(network.shortcut, in_channels, out_channels, stride, projected)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H', W']."""
        active = F.relu(self.norm1(images))
        kept: Tensor = self.shortcut(active if self.activates_shortcut else images)
        changed: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return kept + changed


class PreactivationNetwork(nn.Module):
    """The whole network: standardised images [N, 3, H, W] → logits [N, classes]."""

    def __init__(self, network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, size: int = 0) -> None:
        super().__init__()  # images of any size will do
        self.conv = nn.Conv2d(3, network.channels, 3, padding=1)
        self.blocks = nn.Sequential(
            *(
                PreactivationBlock(*shape, network, batch_norm, is_first=number == 0)
                for number, shape in enumerate(block_shapes(network))
            )
        )
        self.norm = SynchronisedBatchNorm(4 * network.channels, batch_norm.eps)
        self.linear = nn.Linear(4 * network.channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes]."""
        out = F.relu(self.norm(self.blocks(self.conv(images))))
        return self.linear(pixel_mean(out))  # type: ignore[no-any-return]
