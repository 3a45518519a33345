"""The residual network a second time, as a reference: from the paper's table, in elementary tensor operations.

He et al. 2015 (arXiv:1512.03385), section 4.2:

    output map size    32x32    16x16    8x8
    layers             1+2n     2n       2n
    filters            16       32       64

and then global average pooling and a fully-connected layer. And its successor with pre-activation, He et al. 2016
(arXiv:1603.05027), figure 1(b) and appendix: batch norm and ReLU before each convolution, the first unit's right after
conv1 and before the paths split, and one more of both after the last addition.

Nothing is shared with the code under test but the names of the parameters, and nothing is taken from `torch.nn`:
convolutions are loops over the kernel, batch norm is its formula. Automatic differentiation of these operations gives
reference gradients.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

MAP_SIZES = (32, 16, 8)
FILTERS = (1, 2, 4)
"""Filters of each group in units of the network's width (16 in the paper)."""


@dataclass
class NaiveNetwork:
    """The network's forward pass. `outputs` then holds what every layer gave, by the layer's name."""

    parameters: dict[str, Tensor]
    """Weights and running statistics by name, such as `blocks.0.conv1.weight`."""
    n: int
    width: int
    option: str
    """Shortcut A, B or C, or `none` for a plain network."""
    relu_after_addition: bool
    norm_after_addition: bool
    training: bool
    """Whether batch norm uses the batch's own statistics."""
    preactivation: bool = False
    eps: float = 1e-5
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, 32, 32] → logits [N, classes]."""
        out = self.conv("conv", images, stride=1)
        if not self.preactivation:
            out = relu(self.norm("norm", out))
        number = 0
        for group in range(3):
            for first in [True] + [False] * (self.n - 1):
                unit = self.preactivation_block if self.preactivation else self.block
                out = unit(f"blocks.{number}", out, self.width * FILTERS[group], halve=first and group > 0)
                assert out.shape[1:] == (self.width * FILTERS[group], MAP_SIZES[group], MAP_SIZES[group])
                number += 1
        if self.preactivation:
            out = relu(self.norm("norm", out))
        pooled = out.sum(3).sum(2) / 64
        logits = pooled @ self.parameters["linear.weight"].T + self.parameters["linear.bias"]
        self.outputs["linear"] = logits
        return logits

    def block(self, name: str, images: Tensor, filters: int, halve: bool) -> Tensor:
        """One building block; `halve`: it halves the map and doubles the filters."""
        stride = 2 if halve else 1
        out = self.conv(f"{name}.conv1", images, stride)
        out = relu(self.norm(f"{name}.norm1", out))
        out = self.conv(f"{name}.conv2", out, stride=1)
        if self.norm_after_addition:
            out = self.norm(f"{name}.norm2", out + self.shortcut(f"{name}.shortcut", images, filters, halve))
        else:
            out = self.norm(f"{name}.norm2", out)
            if self.option != "none":
                out = out + self.shortcut(f"{name}.shortcut", images, filters, halve)
        if self.relu_after_addition:
            out = relu(out)
        self.outputs[name] = out
        return out

    def preactivation_block(self, name: str, images: Tensor, filters: int, halve: bool) -> Tensor:
        """One unit of the successor; where the map or the filters change, and at first, both paths are activated."""
        active = relu(self.norm(f"{name}.norm1", images))
        out = self.conv(f"{name}.conv1", active, stride=2 if halve else 1)
        out = relu(self.norm(f"{name}.norm2", out))
        out = self.conv(f"{name}.conv2", out, stride=1)
        kept = active if halve or name == "blocks.0" else images
        if self.option == "C" or (self.option == "B" and halve):
            out = out + self.conv(f"{name}.shortcut", kept, stride=2 if halve else 1)
        else:
            out = out + self.shortcut(f"{name}.shortcut", kept, filters, halve)
        self.outputs[name] = out
        return out

    def shortcut(self, name: str, images: Tensor, filters: int, halve: bool) -> Tensor:
        """What is added to the block's two convolutions."""
        if self.option == "C" or (self.option == "B" and halve):
            out = self.norm(f"{name}.1", self.conv(f"{name}.0", images, stride=2 if halve else 1))
        elif halve:
            count, channels, height, width = images.shape
            out = images.new_zeros(count, filters, height // 2, width // 2)
            for row in range(height // 2):
                out[:, :channels, row] = images[:, :, 2 * row, [2 * column for column in range(width // 2)]]
        else:
            out = images
        self.outputs[name] = out
        return out

    def conv(self, name: str, images: Tensor, stride: int) -> Tensor:
        """A convolution, padded with zeros so that stride 1 keeps the map's size."""
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        count, channels, height, width = images.shape
        reach = weight.shape[2] // 2
        padded = images.new_zeros(count, channels, height + 2 * reach, width + 2 * reach)
        padded[:, :, reach : reach + height, reach : reach + width] = images
        out: Tensor = bias[None, :, None, None].expand(count, -1, height // stride, width // stride)
        for row in range(weight.shape[2]):
            for column in range(weight.shape[3]):
                seen = padded[:, :, row : row + height : stride, column : column + width : stride]
                out = out + torch.einsum("nchw,oc->nohw", seen, weight[:, :, row, column])
        self.outputs[name] = out
        return out

    def norm(self, name: str, images: Tensor) -> Tensor:
        """Batch norm (Ioffe and Szegedy 2015), with the biased variance of the batch in training."""
        shape = (1, -1, 1, 1)
        if self.training:
            values = images.transpose(0, 1).reshape(images.shape[1], -1)
            mean = values.sum(1) / values.shape[1]
            variance = ((values - mean[:, None]) ** 2).sum(1) / values.shape[1]
        else:
            mean, variance = self.parameters[f"{name}.running_mean"], self.parameters[f"{name}.running_var"]
        normalised = (images - mean.reshape(shape)) / torch.sqrt(variance + self.eps).reshape(shape)
        scale, shift = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        out: Tensor = normalised * scale.reshape(shape) + shift.reshape(shape)
        self.outputs[name] = out
        return out


def relu(images: Tensor) -> Tensor:
    return images * (images > 0)
