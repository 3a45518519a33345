"""Parts of one's own: a block, a solver and a data set (docs/custom.md)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from resnet_dist.extension import Block, DecodedImages


class SqueezeBlock(Block):
    """The study's block, its output weighed by channel before the last ReLU."""

    def __init__(self, in_channels, out_channels, stride, network, batch_norm):
        super().__init__(in_channels, out_channels, stride, network, batch_norm)
        self.squeeze = nn.Linear(out_channels, out_channels)

    def forward(self, images):
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(images)))))
        weights = torch.sigmoid(self.squeeze(out.mean((2, 3))))
        return F.relu(out * weights[:, :, None, None] + self.shortcut(images))


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a mean of gradients."""

    def __init__(self, parameters, solver):
        beta1 = 0.9 if solver.beta1 is None else solver.beta1
        super().__init__(parameters, {"lr": solver.learning_rate, "beta1": beta1, "beta2": 0.99})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                mean = self.state[weights].setdefault("mean", torch.zeros_like(weights))
                weights.sub_(group["lr"] * torch.sign(group["beta1"] * mean + (1 - group["beta1"]) * weights.grad))
                mean.mul_(group["beta2"]).add_((1 - group["beta2"]) * weights.grad)


def stripes():
    """Images of stripes, across or down; the second class is down."""

    def split(count, seed):
        random = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        waves = 128 + 100 * np.sin(np.arange(32) + random.uniform(0, 6, (count, 1)))
        across = np.repeat(waves[:, None, :, None], 32, axis=3)
        images = np.where(labels[:, None, None, None], across.swapaxes(2, 3), across)
        noisy = np.repeat(images, 3, axis=1) + random.normal(0, 60, (count, 3, 32, 32))
        return noisy.clip(0, 255).astype(np.uint8), labels

    return DecodedImages(*split(400, 1), *split(100, 2), classes=("across", "down"))
