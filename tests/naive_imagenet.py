"""The networks for ImageNet a second time, as a reference: He et al. 2015, table 1, in elementary tensor operations.

    layer name   conv1          conv2_x            conv3_x   conv4_x   conv5_x
    output       112x112        56x56              28x28     14x14     7x7
    18 layers    7x7, 64, / 2   3x3 max pool, / 2; [3x3, 64; 3x3, 64] x 2, then 128, 256, 512, each x 2
    50 layers    the same       the same pool; [1x1, 64; 3x3, 64; 1x1, 256] x 3, then 128 x 4, 256 x 6, 512 x 3

and then average pooling and a fully-connected layer. Convolutions have no biases.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.naive_network import NaiveNetwork, relu

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


@dataclass
class NaiveImageNetNetwork(NaiveNetwork):
    """The forward pass, for images whose side is a multiple of 32; `n` is the depth."""

    stride_first: bool = True
    """Whether a bottleneck's stride is in its first convolution."""

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] → logits [N, classes]."""
        out = max_pool(relu(self.norm("norm", self.bare_conv("conv", images, 2))))
        number, expansion = 0, 4 if self.n >= 50 else 1
        for group, blocks in enumerate(BLOCKS[self.n]):
            for first in [True] + [False] * (blocks - 1):
                filters = expansion * (self.width << group)
                unit = self.before if self.preactivation else self.after
                out = unit(f"blocks.{number}", out, filters, stride=2 if first and group else 1)
                assert out.shape[2] == images.shape[2] >> (2 + group)
                number += 1
        if self.preactivation:
            out = relu(self.norm("last_norm", out))
        pooled = out.sum(3).sum(2) / (out.shape[2] * out.shape[3])
        return pooled @ self.parameters["linear.weight"].T + self.parameters["linear.bias"]

    def strides(self, stride: int) -> tuple[int, ...]:
        """Stride of each convolution of a block."""
        if self.n < 50:
            return stride, 1
        return (stride, 1, 1) if self.stride_first else (1, stride, 1)

    def after(self, name: str, images: Tensor, filters: int, stride: int) -> Tensor:
        """A block whose batch norms follow the convolutions."""
        strides = self.strides(stride)
        out = images
        for number, step in enumerate(strides[:-1], 1):
            out = relu(self.norm(f"{name}.norm{number}", self.bare_conv(f"{name}.conv{number}", out, step)))
        last = len(strides)
        out = self.bare_conv(f"{name}.conv{last}", out, 1)
        if self.option == "none":
            out = self.norm(f"{name}.norm{last}", out)
        elif self.norm_after_addition:
            out = self.norm(f"{name}.norm{last}", out + self.kept(name, images, filters, stride))
        else:
            out = self.norm(f"{name}.norm{last}", out) + self.kept(name, images, filters, stride)
        return relu(out) if self.relu_after_addition else out

    def before(self, name: str, images: Tensor, filters: int, stride: int) -> Tensor:
        """A block with pre-activation; the first one's stands before the max pooling."""
        active = images if name == "blocks.0" else relu(self.norm(f"{name}.norm1", images))
        strides = self.strides(stride)
        out = self.bare_conv(f"{name}.conv1", active, strides[0])
        for number, step in enumerate(strides[1:], 2):
            out = self.bare_conv(f"{name}.conv{number}", relu(self.norm(f"{name}.norm{number}", out)), step)
        changes = images.shape[1] != filters or stride > 1
        return out + self.kept(name, active if changes else images, filters, stride)

    def kept(self, name: str, images: Tensor, filters: int, stride: int) -> Tensor:
        """What goes past the convolutions."""
        changes = images.shape[1] != filters or stride > 1
        if self.option == "C" or (self.option == "B" and changes):
            if self.preactivation:
                return self.bare_conv(f"{name}.shortcut", images, stride)
            return self.norm(f"{name}.shortcut.1", self.bare_conv(f"{name}.shortcut.0", images, stride))
        count, channels, height, width = images.shape
        out = images.new_zeros(count, filters, height // stride, width // stride)
        out[:, :channels] = images[:, :, ::stride, ::stride]
        return out

    def bare_conv(self, name: str, images: Tensor, stride: int) -> Tensor:
        """A convolution without biases."""
        weight = self.parameters[f"{name}.weight"]
        self.parameters.setdefault(f"{name}.bias", weight.new_zeros(len(weight)))
        return self.conv(name, images, stride)


def max_pool(images: Tensor) -> Tensor:
    """The greatest of 3x3 pixels around every second one, [N, C, H, W] → [N, C, H / 2, W / 2]."""
    count, channels, height, width = images.shape
    padded = images.new_full((count, channels, height + 2, width + 2), float("-inf"))
    padded[:, :, 1:-1, 1:-1] = images
    windows = [padded[:, :, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return torch.stack(windows).amax(0)
