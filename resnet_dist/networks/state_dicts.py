"""Names and order of weights in other people's state dicts, and in ours.

    ours       conv, norm, blocks.4.conv1, blocks.4.norm1, blocks.4.shortcut.0, linear
    torchvision        conv1, bn1, layer2.1.conv1, layer2.1.bn1, layer2.1.downsample.0, fc
    akamaster/pytorch_resnet_cifar10  the same, but layer2.1.shortcut.0 and linear

akamaster's shortcut A puts half of the zero channels before the existing ones, ours appends all. So channel p of the
first has another number in the second, from each such shortcut on to the linear layer. Its convolutions, and
torchvision's, have no biases; ours for small images have them, which are zeros then.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.network import NetworkConfig
from resnet_dist.networks.blocks import block_shapes

_ENDS = {"conv1": "conv", "bn1": "norm", "fc": "linear", "linear": "linear"}
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(.+)")
_PARTS = ((r"^bn(\d)", r"norm\1"), (r"^downsample\b", "shortcut"))


def from_any(weights: Mapping[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Weights by our names and in our order of channels; those that are ours already, or nobody's, as they are."""
    if network.block or is_custom(network.family) or not any(_BLOCK.match(name) for name in weights):
        return dict(weights)
    renamed = {_our_name(name, network): value for name, value in weights.items()}
    if "linear.weight" in weights and network.shortcut == "A":
        return _appended_zeros(renamed, network)
    return renamed


def to_torchvision(weights: Mapping[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Weights by torchvision's names, of a network that is torchvision's."""
    return {_torchvisions_name(name, network): value for name, value in weights.items()}


def _our_name(name: str, network: NetworkConfig) -> str:
    if block := _BLOCK.match(name):
        group, index, rest = int(block[1]), int(block[2]), block[3]
        for pattern, ours in _PARTS:
            rest = re.sub(pattern, ours, rest)
        if group > len(network.groups) or index >= network.groups[group - 1]:
            return name  # of a deeper network: the name that has no place here is told
        return f"blocks.{sum(network.groups[: group - 1]) + index}.{rest}"
    layer, _, rest = name.partition(".")
    return f"{_ENDS.get(layer, layer)}.{rest}"


def _torchvisions_name(name: str, network: NetworkConfig) -> str:
    layer, _, rest = name.partition(".")
    if layer != "blocks":
        return f"{ {'conv': 'conv1', 'norm': 'bn1', 'linear': 'fc'}[layer] }.{rest}"
    number, _, rest = rest.partition(".")
    index, group = int(number), 0
    while index >= network.groups[group]:
        index -= network.groups[group]
        group += 1
    rest = re.sub(r"^norm(\d)", r"bn\1", rest).replace("shortcut", "downsample", 1)
    return f"layer{group + 1}.{index}.{rest}"


def _appended_zeros(weights: dict[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Channels in the order in which shortcut A appends zero channels, from one in which it puts half of them first."""
    order = torch.arange(network.channels)  # order[p]: where our channel p stands in the file
    changed = dict(weights)

    def take(layer: str, dimension: int) -> None:
        for name in (f"{layer}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")):
            if name in changed and changed[name].ndim > dimension:
                changed[name] = changed[name].index_select(dimension, order)

    if weights["linear.weight"].shape[-1] != network.channels << (len(network.groups) - 1):
        return changed  # of another width, which is told where it does not fit
    for number, (channels, wider, _) in enumerate(block_shapes(network)):
        take(f"blocks.{number}.conv1", 1)
        if wider > channels:  # half of the new channels stand first in the file, the other half last
            first = (wider - channels) // 2
            order = torch.cat([order + first, torch.arange(first), torch.arange(first + channels, wider)])
        take(f"blocks.{number}.conv2", 0)
        take(f"blocks.{number}.norm2", 0)
    take("linear", 1)
    return changed
