"""Initial weights as a function of the seed, with the distributions of the study's Torch7 code."""

import math

import torch
from torch import nn

from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.data import random_draws
from resnet_dist.data.random_draws import Stream
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.caffenet import HiddenLinear
from resnet_dist.networks.cifar import Block, ResidualNetwork
from resnet_dist.networks.imagenet import ImageNetNetwork


def initialise(network: nn.Module, config: NetworkConfig, seed: int) -> None:
    """Draw every parameter, in float64 and then rounded, so that precision does not change the draw.

    Convolutions, and linear layers before an activation: weights N(0, 2 / fan_in), biases 0. Linear layer: weights and
    biases U(±1 / sqrt(fan_in)), Torch7's default. Batch norm: biases 0, scales N(1, 0.002) for `published`; for `head`
    the stem's and each block's second (and a projection's) keep Torch7's default, U(0, 1). With `zero_last_scale` the
    scales of each block's last batch norm are zeros. Other parameters, and all of a module with a true attribute
    `own_initialisation`, keep what they were made with.
    """
    # Modules of the user's own may keep what they were made with.
    left = {
        part
        for module in network.modules()
        if getattr(module, "own_initialisation", False)
        for part in module.modules()
    }
    uniform_scales = _uniform_scales(network) if config.initialisation == "head" else set()
    with torch.no_grad():
        for index, module in enumerate(network.modules()):
            if module in left:
                continue
            if isinstance(module, nn.Conv2d | HiddenLinear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(_normal(seed, index, module.weight) * math.sqrt(2 / fan_in))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                module.weight.copy_((2 * _uniform(seed, 2 * index, module.weight) - 1) * bound)
                if module.bias is not None:
                    module.bias.copy_((2 * _uniform(seed, 2 * index + 1, module.bias) - 1) * bound)
            elif isinstance(module, SynchronisedBatchNorm):
                if module in uniform_scales:
                    module.weight.copy_(_uniform(seed, 2 * index, module.weight))
                else:
                    module.weight.copy_(1 + 0.002 * _normal(seed, index, module.weight))
                module.bias.zero_()
        if config.zero_last_scale:
            for scale in _last_scales(network):
                scale.zero_()


def _last_scales(network: nn.Module) -> list[nn.Parameter]:
    assert isinstance(network, ResidualNetwork | ImageNetNetwork)
    return [_norms_of_path(block)[-1].weight for block in network.blocks]


def _norms_of_path(block: nn.Module) -> list[SynchronisedBatchNorm]:
    """The batch norms of a block itself, without those of its shortcut."""
    return [module for module in block.children() if isinstance(module, SynchronisedBatchNorm)]


def _uniform_scales(network: nn.Module) -> set[nn.Module]:
    assert isinstance(network, ResidualNetwork)
    scales: set[nn.Module] = {network.norm}
    for block in network.blocks:
        assert isinstance(block, Block)
        scales.add(block.norm2)
        if isinstance(block.shortcut, nn.Sequential):
            scales.add(block.shortcut[1])
    return scales


def _normal(seed: int, index: int, like: torch.Tensor) -> torch.Tensor:
    bits = random_draws.raw(seed, Stream.WEIGHTS, 2 * index, 2 * like.numel())
    return torch.from_numpy(random_draws.normal(bits)).view(like.shape)


def _uniform(seed: int, index: int, like: torch.Tensor) -> torch.Tensor:
    bits = random_draws.raw(seed, Stream.WEIGHTS, index, like.numel())
    return torch.from_numpy(random_draws.uniform(bits)).view(like.shape)
