"""The one place that makes networks: of a family in `configuration/network_families.py`, or of the user's own code."""

import importlib

import torch
from torch import nn

from resnet_dist.configuration.batch_norm import BatchNormConfig
from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.configuration.network_families import FAMILIES
from resnet_dist.custom_code import call
from resnet_dist.errors import ConfigurationError
from resnet_dist.networks.cifar import ResidualNetwork


def make_network(
    network: NetworkConfig, batch_norm: BatchNormConfig, classes: int, seed: int = 0, size: int = 32
) -> nn.Module:
    """The network that a configuration asks for: standardised images [N, 3, H, W] → logits [N, classes].

    `size`: rows or columns of the images, which networks with fully connected layers have to know. What code of the
    user's own draws from torch's generator while it makes its layers is a function of the seed.
    """
    if is_custom(network.family) or network.block:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if network.block:
                return ResidualNetwork(network, batch_norm, classes)
            made = call("network.family", network.family, network=network, batch_norm=batch_norm, classes=classes)
        if not isinstance(made, nn.Module):
            raise ConfigurationError(
                f"network.family: {network.family!r} gives a value of type {type(made).__name__}, no nn.Module",
                "network.family",
            )
        return made
    module, _, name = FAMILIES[network.family].partition(":")
    made = getattr(importlib.import_module(module), name)(network, batch_norm, classes, size)
    assert isinstance(made, nn.Module)
    return made


def parameter_count(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
